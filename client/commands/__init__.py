"""The organisation's commands: `fedgrpo client`, `learner`, `rewards` and `sft`.

What they start or check belongs to the other packages.
"""
