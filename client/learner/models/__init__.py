"""Base models and their adapters: finding, loading and adapting them.

Training belongs to `training`. The only place with PEFT and Unsloth.
"""
