"""Base models and their adapters: finding, loading, adapting.

Training them belongs to `training`. The only place with PEFT and Unsloth.
"""
