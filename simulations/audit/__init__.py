"""`fedgrpo audit`: what an organisation checks of a run, and the record that a person signs."""
