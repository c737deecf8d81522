"""The reward playground: a local page that shows what every reward function pays for a completion, and why."""
