"""Federations on one machine: scenarios, simulated clients, the in-process grid, the built-in policy and world."""
