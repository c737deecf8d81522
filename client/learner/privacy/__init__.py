"""Differential privacy of local training: units, sampling, noise, accountant and spent budget (docs/privacy.md)."""
