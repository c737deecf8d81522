"""Problems: reading them from tables, prompting them, reading answers out of completions.

No models, no rewards, no torch.
"""
