"""README.md of an export: what it is, how it was trained, its accuracy, and how to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...common import __version__
from ...common.adapter.peft_files import BASE
from ...common.errors import ConfigError
from .facts import run_facts
from .source import Source

TEMPLATE = Path(__file__).parent / "card.md.jinja"
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}


def check_jinja() -> None:
    """Check that the template can be rendered.

    Raises:
        ConfigError: Jinja is not installed.
    """
    try:
        import jinja2  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ConfigError("Exporting writes a model card and needs Jinja: pip install 'fedgrpo[export]'.") from error


def card(
    source: Source,
    to: str,
    *,
    kind: str = "",
    file: str = "",
    rank: int = 0,
    repository: str = "",
    differences: dict[str, str],
    warnings: list[str],
) -> str:
    """Return the model card as Markdown, with the Hub's metadata at the top.

    Args:
        kind: the type of the weights.
        file: the GGUF file's name.
        rank: rank of the PEFT adapter as it was written.
        repository: its name on the Hub; empty if it is not pushed.
    """
    import jinja2

    strict = {"undefined": jinja2.StrictUndefined, "keep_trailing_newline": True}
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, **strict)
    facts: dict[str, Any] = {"to": to, "kind": kind, "file": file, "version": __version__}
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **facts,
        source=source,
        base=source.base,
        adapter=source.adapter,
        run=run_facts(source),
        relation=RELATIONS[to],
        title=repository.rpartition("/")[2] or f"{source.base.public.rpartition('/')[2]}-fedgrpo",
        loadable=_loadable(source),
        place=repository or "FOLDER",
        pushed=bool(repository),
        vllm_rank=next((size for size in VLLM_RANKS if size >= rank), rank),
        differences=differences,
        warnings=warnings,
    )
    return _tidy(text)


def _loadable(source: Source) -> str:
    base = source.base
    return f'f"{{folder}}/{BASE}"' if base.built_in else repr(base.public)


def _tidy(text: str) -> str:
    """Collapse runs of empty lines, which the template's branches leave."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    return "\n".join(lines).strip() + "\n"
