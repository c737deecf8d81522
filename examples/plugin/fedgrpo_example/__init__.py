"""One plug-in of each kind for fedgrpo: a method, a robust rule, a weight, a codec and a reward."""
