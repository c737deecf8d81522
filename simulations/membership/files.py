"""Where an audit is written: the run's folder, or a private one of the organisation."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from ...client.organisation.settings import OrganisationFile
from ...common.storage.atomic import make_private_folder, write_atomic
from ...server.run.locate import locate_adapter
from .session import Audited


def write(audited: Audited, target: Path, out: Path | None, say: Callable[[str], None]) -> list[str]:
    """Write membership.json and membership.svg, and return their paths. Without matplotlib there is no figure."""
    folder = out or _own_folder(audited, target)
    folder.mkdir(parents=True, exist_ok=True)
    name = "membership" if audited.asked.client is None else f"membership-client-{audited.asked.client}"
    table, figure = folder / f"{name}.json", folder / f"{name}.svg"
    write_atomic(table, (json.dumps(audited.as_json(), indent=2) + "\n").encode())
    if find_spec("matplotlib") is None:
        say("no figure: matplotlib is not installed. Install the extra: pip install 'fedgrpo[report]'")
        return [str(table)]
    from .figure import draw

    draw(audited, figure)
    return [str(table), str(figure)]


def _own_folder(audited: Audited, target: Path) -> Path:
    if audited.asked.organisation is None:
        run = locate_adapter(target).run
        assert run is not None
        return run.folder
    folder = OrganisationFile.read(audited.asked.organisation).folder
    make_private_folder(folder)
    return folder / "audits" / audited.adapter_sha256[:12]
