"""Which extra of the package brings a library that is missing, for the one sentence a command says then."""

from __future__ import annotations

from collections.abc import Sequence

FLOWER = {"server": "server", "keys": "server", "client": "node"}
"""The role of those who use Flower by command; for all other commands it is the simulation."""
SIMULATION = ("simulate", "study", "finetune", "partition", "plan")
EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "trl", "peft", "datasets", "accelerate"), "learner"),
    **dict.fromkeys(("matplotlib", "jinja2"), "report"),
    "gguf": "export",
    "huggingface_hub": "export",
    "vllm": "vllm",
    "unsloth": "unsloth",
    "ray": "ray",
}


def missing_extra(module: str | None, words: Sequence[str]) -> str | None:
    """Return what to say when a module is missing; None if no extra brings it, which is a bug then.

    Args:
        module: as `ModuleNotFoundError.name` has it.
        words: of the command line, without `fedgrpo`.

    >>> missing_extra("flwr.app", ["client", "up"])
    "`fedgrpo client` needs flwr, which is not installed here. Install the extra: pip install 'fedgrpo[node]'."
    """
    library = (module or "").partition(".")[0]
    command = next((word for word in words if not word.startswith("-")), "")
    extra = FLOWER.get(command, "simulation") if library == "flwr" else EXTRAS.get(library)
    if extra is None:
        return None
    if command in SIMULATION:
        extra = "simulation" if extra in ("learner", "report") else extra
    return (
        f"`fedgrpo {command}` needs {library}, which is not installed here. "
        f"Install the extra: pip install 'fedgrpo[{extra}]'."
    )
