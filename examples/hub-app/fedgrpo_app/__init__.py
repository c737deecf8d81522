"""A Flower app that runs fedgrpo, as it is installed."""
