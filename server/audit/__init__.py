"""The round log that organisations can verify: hash-chained, signed by the server, its heads counter-signed."""
