"""The organisation's file and the policy in it. What reads or enforces them for a task belongs to `learner.service`."""
