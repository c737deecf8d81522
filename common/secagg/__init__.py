"""Secure aggregation: the arithmetic and the cryptography that clients and server agree on (docs/protocol.md)."""
