"""The round loop: who takes part, what is asked of them, which replies are accepted, whether a round is committed.

Aggregation itself belongs to `aggregation`.
"""
