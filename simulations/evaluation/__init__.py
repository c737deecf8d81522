"""Held-out problems put to a model, or to a base model and its adapter: measured, saved, talked to."""
