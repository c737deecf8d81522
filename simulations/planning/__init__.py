"""What a scenario needs, before anything is spent: memory by part, bytes, work, hours."""
