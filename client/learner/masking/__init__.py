"""The organisation's side of secure aggregation, in the learner's process: secrets, masks and what may be signed."""
