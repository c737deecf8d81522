"""Identities: Ed25519 keys of organisations and of the server, and the federation manifest that lists them."""
