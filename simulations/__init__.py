"""Federations on one machine, and tools for working with their results. May import both sides."""
