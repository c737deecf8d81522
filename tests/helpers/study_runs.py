"""Run folders of a study without training: what a finished run leaves, with answers that a test wants."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from fedgrpo.common.messages.messages import Tally
from fedgrpo.simulations.study.study_file import Study, read_study
from fedgrpo.simulations.study.study_runs import StudyRun, study_runs_of

STUDY = """
[study]
question = "Which is better?"
scenario = "builtin"
seeds = [0, 1]
baseline = "central"
[settings]
"federation.rounds" = 1
"evaluation.problems" = 4
"simulation.clients" = 2
[arms.central]
kind = "central"
[arms.naive]
"aggregation.method" = "naive"
[arms.local]
kind = "local"
"""


def planned(folder: Path, text: str = STUDY) -> tuple[Study, dict[str, StudyRun]]:
    """The study and its cells by name."""
    (folder / "which.toml").write_text(text)
    study = read_study(folder / "which.toml")
    return study, {study_run.name: study_run for study_run in study_runs_of(study, folder / "out" / "which")}


def begun(study_run: StudyRun, *events: str) -> None:
    """A run that has got so far."""
    study_run.folder.mkdir(parents=True, exist_ok=True)
    (study_run.folder / "config.resolved.toml").write_text(study_run.config.to_toml())
    lines = [{"event": "CREATED", "config": study_run.config.sha256, "adapter": "00"}, *({"event": e} for e in events)]
    journal = [{"time": 0.0, "round": 1, "adapter": "00", **line} for line in lines]
    (study_run.folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in journal))


def finished(study_run: StudyRun, right: str, *, megabytes: float = 1.0) -> None:
    """A finished run that answered the held-out problems like this: `1` right, `0` wrong."""
    begun(study_run, "PLANNED", "COMMITTED", "FINISHED")
    metrics, answers = [], []
    for number, marks in ((0, "0" * len(right)), (1, right)):
        tally = asdict(Tally(problems=len(marks), correct=marks.count("1"), gained=marks.count("1")))
        for decoding in ("greedy", "sampled"):
            of = {"round": number, "decoding": decoding}
            metrics.append({"kind": "evaluation", **of, "clients": ["client-0"], "total": tally, "classes": {}})
            answers.append({**of, "client": "client-0", "right": marks, "problems": list(range(len(marks)))})
    sizes = {"bytes_up": round(megabytes * 1e6), "bytes_down": round(2e6 * megabytes)}
    metrics.append({"kind": "round", "round": 1, "seconds": 3.0, **sizes, "clients": {"client-0": {"share": 1.0}}})
    for name, lines in (("metrics", metrics), ("answers", answers)):
        (study_run.folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
