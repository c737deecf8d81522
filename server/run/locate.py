"""The adapter that a command or a function names: a run folder, one of its adapters, or a folder that PEFT can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...common.adapter.peft_files import CONFIG
from ...common.analysis.scores import score
from ...common.errors import ConfigError
from .layout import RunFolder
from .reader import Run


@dataclass(frozen=True, slots=True)
class Located:
    """The folder of an adapter, and its place in a run."""

    folder: Path
    run: Run | None = None
    """The run that trained it; None if only the adapter's folder is available."""
    round: int | None = None
    """The round after which it was committed; 0 is the adapter that the run started from."""


def locate_adapter(target: Path, number: int | None = None, *, best: bool = False) -> Located:
    """Return the place of the adapter that `target` names, without reading the adapter.

    Args:
        target: a run folder, `RUN/adapters/NUMBER`, or a folder with a PEFT adapter.
        number: the round; None uses the last committed one.
        best: use the committed round with the highest held-out accuracy.

    Raises:
        ConfigError: `target` is none of these, or the round was not committed.
    """
    if number is not None and best:
        raise ConfigError("--round and --best both select a round. Use only one of them.")
    folder = target.resolve()
    if RunFolder(folder).begun:
        return _of_run(Run.read(target), number, best=best)
    if number is not None or best:
        raise ConfigError(f"{target} is not a run folder, so it has no rounds to select: leave out --round and --best.")
    if RunFolder(folder.parent.parent).begun and folder.name.isdigit():
        return _of_run(Run.read(folder.parent.parent), int(folder.name), best=False)
    if (folder / CONFIG).is_file():
        return Located(folder)
    if (folder / "config.json").is_file():
        raise ConfigError(
            f"{target} is a model, not an adapter or a run. Give it as --model {target} to evaluate it or to chat."
        )
    raise ConfigError(
        f"{target} is neither a run folder nor one of its adapters (RUN/adapters/NUMBER), nor a PEFT adapter: "
        f"{CONFIG} is missing."
    )


def _of_run(run: Run, number: int | None, *, best: bool) -> Located:
    committed = run.journal.adapters
    if number == 0 and not best and run.files.adapter(0).is_dir():
        return Located(run.files.adapter(0), run, 0)
    if not committed:
        raise ConfigError(f"{run.folder} has no committed round yet, so it has no trained adapter.")
    selected = _best(run, committed) if best else max(committed) if number is None else number
    if selected not in committed:
        raise ConfigError(f"Round {selected} of {run.folder} was not committed. The rounds are 1 to {max(committed)}.")
    return Located(run.files.adapter(selected), run, selected)


def _best(run: Run, committed: dict[int, str]) -> int:
    scored = [(score(e.total).strict, -e.round) for e in run.sampled if e.round in committed and e.total.problems]
    if not scored:
        raise ConfigError(
            f"{run.folder} has no held-out accuracy after any round, so --best cannot select one. Use --round."
        )
    return -max(scored)[1]
