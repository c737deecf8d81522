"""Where this checkout's files are, and the libraries that only the learner may import."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GSM8K = ROOT.parent / "shared" / "gsm8k"
"""The real GSM8K, beside the checkout; a test that needs it skips without it."""
HEAVY = {"torch", "trl", "transformers", "peft", "datasets", "vllm", "unsloth", "matplotlib", "pandas"}
HEAVY |= {"tensorboardX", "wandb", "trackio", "mlflow"}
