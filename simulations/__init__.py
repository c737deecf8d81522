"""Federations on one machine, and what a researcher does with their results. May import both sides."""
