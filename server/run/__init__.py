"""A run's folder: journal, metrics, adapters, and everything that reads them. Nothing here talks to clients."""
