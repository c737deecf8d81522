"""What server and clients must agree on: settings, the adapter, messages, errors, and tools without a side.

numpy only, no torch.
"""

__version__ = "0.2.0.dev0"
