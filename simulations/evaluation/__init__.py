"""Evaluation of a base model and an adapter on held-out problems: measuring, saving, chatting."""
