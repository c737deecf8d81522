"""The Flower ServerApp and the operator's tools: round loop, intake, aggregation, run folder. numpy only, no torch."""
