"""The Flower ServerApp: the round loop, intake, aggregation, journal. numpy only, no torch."""
