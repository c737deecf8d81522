"""From many updates to one: weights, robust rules, each method's aggregation, the server's optimizer.

Pure functions; no files, no Flower.
"""
