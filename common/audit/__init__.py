"""The round log: one signed record per round, each holding the hash of the one before. Read by server and clients."""
