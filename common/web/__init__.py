"""Local pages: who may open them, and how they are served. Nothing of it knows what a page shows."""
