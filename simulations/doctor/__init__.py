"""What of this machine and environment a federation needs, and what to do where it is missing. No torch."""
