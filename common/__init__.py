"""What server and client must agree on: settings, the adapter, the wire format, errors. numpy only, no torch."""

__version__ = "0.1.0"
