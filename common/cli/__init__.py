"""The `fedgrpo` command's root and what all commands share: options, process supervision, keys, HTTP bodies.

Single commands live with their side.
"""
