"""`fedgrpo study`: arms over seeds, run as ordinary runs, compared on the same held-out problems."""
