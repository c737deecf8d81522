"""Watching runs: `fedgrpo dashboard`, a local page, and `fedgrpo watch`, the same in a terminal."""
