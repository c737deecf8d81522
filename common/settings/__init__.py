"""Every setting of a run: meaning, default, bounds, TOML.

An organisation's own settings belong to `client.organisation`.
"""
