"""The built-in world (generated grade-school problems) and policy (148 k parameters): offline, without a GPU or the
Hub."""
