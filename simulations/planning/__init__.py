"""Estimates of what a scenario needs before it runs: memory by part, traffic, computation, hours."""
