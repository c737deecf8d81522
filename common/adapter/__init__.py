"""The adapter as one flat vector: schema, arithmetic, aggregation methods' factors, PEFT files.

Aggregating adapters belongs to `server.aggregation`.
"""
