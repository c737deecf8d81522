"""Local GRPO: the trainer, the metrics of a round, evaluation, compression with error feedback.

The only place with TRL.
"""
