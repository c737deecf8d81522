"""The built-in world (generated grade-school problems) and policy (148 k parameters): offline, no GPU, no hub."""
