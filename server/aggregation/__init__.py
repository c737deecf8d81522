"""From many updates to one: weights, robust rules, the aggregation of each method, the server's optimizer.

Pure functions; no files, no Flower.
"""
