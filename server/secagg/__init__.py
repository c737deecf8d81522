"""The server's side of secure aggregation: it passes messages on, adds up masked vectors and removes the masks."""
