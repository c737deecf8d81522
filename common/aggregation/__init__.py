"""Rules that a run chooses by name: client weights and robust rules, each with its facts and its function.

Settings check against them on both sides. How the server reads the updates they apply to is in `server.aggregation`.
"""
