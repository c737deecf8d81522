"""Local GRPO: the trainer, the metrics of a round, evaluation, and compression with error feedback.

The only place with TRL.
"""
