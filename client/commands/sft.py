"""The commands of one site by itself: a supervised start before a federation."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...common.bounds import one_of
from ...common.cli.options import Format, FormatOption, say

if TYPE_CHECKING:
    from ..learner.training.sft import Taught


def sft(
    data: Annotated[Path, typer.Argument(help="Demonstrations: a .jsonl with a question and a completion each.")],
    model: Annotated[str, typer.Option(help="The model to teach: a name, a folder, or a .gguf file.")],
    out: Annotated[Path, typer.Option(help="Model folder to write. It must not exist yet.")],
    revision: Annotated[str, typer.Option(help="The model's revision.")] = "",
    source: Annotated[str, typer.Option(help="Where a named model comes from: hub or modelscope.")] = "hub",
    question: Annotated[str, typer.Option(help="Column of the question.")] = "question",
    completion: Annotated[str, typer.Option(help="Column of the completion to learn.")] = "completion",
    system: Annotated[str, typer.Option(help="System prompt: xml, think, hash, none, or a text file.")] = "none",
    epochs: Annotated[float, typer.Option(help="Passes over the demonstrations.")] = 3.0,
    steps: Annotated[int, typer.Option(help="Optimizer steps, instead of --epochs.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of LoRA; decays to 0.")] = 2e-4,
    rank: Annotated[int, typer.Option(help="Rank of LoRA, which is merged at the end.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Demonstrations per step.")] = 8,
    max_length: Annotated[int, typer.Option(help="Tokens; longer demonstrations are left out.")] = 1024,
    dtype: Annotated[str, typer.Option(help="Type of the weights: auto (the file's), float32, bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of order and adapter.")] = 0,
    output: FormatOption = Format.text,
) -> None:
    """Teach a model from demonstrations before GRPO, and write it as a new model folder (LoRA, merged).

    GRPO finds only what the policy does now and then; a few hundred demonstrations of a format are a start. Every party
    of a federation needs the same model folder: compare the SHA-256 that is printed. A stopped run leaves nothing.

    [bold]Examples[/bold]

      fedgrpo sft shown.jsonl --model Qwen/Qwen2.5-0.5B-Instruct --system xml --out models/started
      fedgrpo sft shown.jsonl --model builtin --out started --steps 20 --learning-rate 2e-3
      fedgrpo simulate gsm8k --model models/started --data gsm8k/         then, in a simulation
      model.folder = models/started                                       or in an organisation's file
    """
    from ..learner.data.problems import read_jsonl
    from ..learner.data.system_prompts import system_prompt
    from ..learner.models.model_files import model_folder, must_be_new

    started = time.perf_counter()
    one_of("--source", source, ("hub", "modelscope"))
    one_of("--dtype", dtype, ("auto", "float32", "bfloat16", "float16"))
    must_be_new(out)
    prompt = system_prompt(system)
    shown = [(row[question], row[completion]) for row in read_jsonl(data, (question, completion))]
    folder = model_folder(model, revision, source)
    from ..learner.models.load import load_model
    from ..learner.training.sft import SFT, teach  # TRL takes seconds, and what is wrong is found by now

    settings = SFT(
        epochs=epochs,
        steps=steps,
        learning_rate=learning_rate,
        rank=rank,
        alpha=2 * rank,
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
        system_prompt=prompt,
    )
    base = load_model(folder, dtype, device=device)
    for note in base.notes:
        say(note)
    say(f"{len(shown)} demonstrations for {folder}")
    taught = teach(base, shown, settings, out, lambda step, of, loss: say(f"step {step} of {of}: loss {loss:.3f}"))
    _tell(taught, time.perf_counter() - started, output)


def _tell(taught: Taught, seconds: float, output: Format) -> None:
    first, last = taught.losses[0], taught.losses[-1]
    if output is Format.json:
        found = {"folder": str(taught.folder), "sha256": taught.sha256, "base_sha256": taught.base_sha256}
        counts = {"examples": taught.examples, "left_out": taught.left_out, "steps": len(taught.losses)}
        print(json.dumps({**found, **counts, "loss": {"first": first, "last": last}, "seconds": round(seconds, 3)}))
        return
    left_out = f" ({taught.left_out} left out: too long)" if taught.left_out else ""
    print(
        f"Taught {taught.examples} demonstrations{left_out} in {len(taught.losses)} steps: "
        f"loss {first:.3f} → {last:.3f}\nModel folder  {taught.folder}\nSHA-256       {taught.sha256}\n"
        "Every party of a federation needs this very folder: copy it, and compare the SHA-256.\n"
        f"Try it: fedgrpo simulate gsm8k --model {taught.folder} --data DIR"
    )
