"""`fedgrpo study`: arms over seeds, played as ordinary runs, compared on the same held-out problems."""
