"""Problems: reading them from tables, turning them into prompts, and reading answers from completions.

No models, no rewards, no torch.
"""
