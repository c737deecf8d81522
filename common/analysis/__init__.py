"""Statistics over counts and metrics: intervals, accuracies, contributions, signs of reward hacking.

Pure functions; no files, no display.
"""
