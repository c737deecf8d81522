"""The ClientApp's side of the learner's socket, and the egress gate.

Everything here may see Flower messages; nothing here may see a prompt.
"""
