"""The open board: result files of studies as one page, a line per arm, with the command that makes it again.

A result file is JSON, as `fedgrpo study` writes it. The board reads only what docs/studies.md lists, so that others can
add a file of their own making; what a file does not say stays open.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig

UNKNOWN = "–"
HEADINGS = (
    "model", "task", "arm", "strict", "lenient", "truncated", "sampled tokens", "GB", "seconds", "epsilon", "secagg",
    "seeds", "again",
)  # fmt: skip
HEAD = """# The board

Every line is one arm of a study. The page is made by

```bash
fedgrpo board docs/studies --out docs/board.md
```

from the result files in [studies](studies); [studies.md](studies.md#a-file-for-the-board) says how to add yours.
`strict` and `lenient` are shares of held-out problems answered correctly after the last round, sampled, as the mean
over the seeds: strict counts an answer where the format requires it, lenient the last number anywhere. Behind strict:
its lowest and its highest seed. Tokens sampled for training, bytes both ways and seconds of work are sums over all
clients, as means over the seeds. `epsilon` is the highest that a client reported. – is not known. Lines of different
studies differ in more than the arm: compare within one, with the intervals in its `table.md`.
"""
Json = Mapping[str, Any]


def board(results: Sequence[Path]) -> str:
    """Return the page for result files, or for folders that are searched for files called result.json.

    Raises:
        ConfigError: there is no result file, or one lacks what the board needs; names file and key.
    """
    files = sorted({file for path in results for file in _files(path)})
    if not files:
        raise ConfigError(f"There is no result.json in {', '.join(map(str, results))}. fedgrpo study writes them.")
    lines = sorted(line for file in files for line in _lines(file))
    table = [_row(HEADINGS), _row(["---"] * len(HEADINGS)), *(_row(cells) for _, cells in lines)]
    return HEAD + "\n" + "\n".join(table) + "\n"


def _files(path: Path) -> Iterable[Path]:
    if not path.exists():
        raise ConfigError(f"{path} does not exist. Give a result.json, or a folder that holds some.")
    return path.rglob("result.json") if path.is_dir() else (path,)


def _lines(file: Path) -> list[tuple[tuple[str, str, str, int], list[str]]]:
    """Return (place on the page, cells) of each arm that has a finished seed; a smoke run has none."""
    try:
        result = json.loads(file.read_text())
        if result.get("quick"):
            return []
        arms = cast("dict[str, Json]", result["arms"])
        lines: list[tuple[tuple[str, str, str, int], list[str]]] = []
        for number, (name, arm) in enumerate(arms.items()):
            if arm["rows"]:
                cells = _cells(name, arm, result)
                lines.append(((cells[0], cells[1], str(result["study"]), number), cells))
        return lines
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}.") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} is not a result file that the board can read: {error!r}. docs/studies.md says what it needs."
        ) from error


def _cells(name: str, arm: Json, result: Json) -> list[str]:
    settings: Json = arm.get("settings", {})
    first: Json = arm["rows"][0]
    seeds = [float(share) for share in first["by_seed"].values()]
    spread = f" ({_share(min(seeds))} to {_share(max(seeds))})" if len(seeds) > 1 else ""
    study = str(result["study"])
    return [
        str(result.get("model") or settings.get("model.name", RunConfig().model.name)),
        str(result.get("task") or result["scenario"]),
        str(name if arm.get("kind", "federated") in ("federated", name) else f"{name} ({arm['kind']})"),
        f"{_share(first['accuracy'])}{spread}",
        _share(arm.get("lenient")),
        _share(arm.get("truncated")),
        _tokens(arm.get("sampled_tokens")),
        _gigabytes(arm),
        UNKNOWN if arm.get("seconds") is None else f"{float(arm['seconds']):.0f}",
        _epsilon(arm, settings),
        "yes" if settings.get("privacy.mode") == "secagg" else "no",
        str(len(seeds)),
        f"`{result.get('command') or f'fedgrpo study benchmarks/studies/{study}.toml'}`",
    ]


def _share(share: float | None) -> str:
    return UNKNOWN if share is None else f"{float(share):.1%}"


def _tokens(count: float | None) -> str:
    return UNKNOWN if count is None else f"{float(count) / 1e6:.3g} M"


def _gigabytes(arm: Json) -> str:
    """Return the bytes of both ways; nothing crosses a network where a client trains alone."""
    up, down = arm.get("bytes_up"), arm.get("bytes_down")
    if up is None or down is None:
        return UNKNOWN
    return np.format_float_positional((float(up) + float(down)) / 1e9, precision=3, fractional=False, trim="-")


def _epsilon(arm: Json, settings: Json) -> str:
    if arm.get("epsilon") is not None:
        return f"{float(arm['epsilon']):.2f}"
    return UNKNOWN if settings.get("dp.noise-multiplier") else "none"


def _row(cells: Iterable[str]) -> str:
    """Return a line of a Markdown table; a file of others cannot break it."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |"
