"""Run folders of a study without training: what a finished run leaves, with answers that a test wants."""

from __future__ import annotations

import json
from pathlib import Path

from fedgrpo.common.messages.messages import Tally
from fedgrpo.server.run.journal import FORMAT, Committed, Created, Finished, Planned
from fedgrpo.server.run.metrics import ClientMetrics, EvaluationMetrics, RoundMetrics
from fedgrpo.server.run.store import Store
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


def planned(folder: Path, text: str = STUDY, *, quick: bool = False) -> tuple[Study, dict[str, StudyRun]]:
    """The study and its cells by name."""
    (folder / "which.toml").write_text(text)
    study = read_study(folder / "which.toml", quick=quick)
    return study, {study_run.name: study_run for study_run in study_runs_of(study, folder / "out" / study.name)}


EVENTS = {
    "PLANNED": Planned(round=1, attempt=1, cohort=("client-0",), adapter="00"),
    "COMMITTED": Committed(round=1, attempt=1, adapter="00", positions={}, strikes={}),
    "FINISHED": Finished(round=1, adapter="00"),
}


def begun(study_run: StudyRun, *events: str) -> Store:
    """A run that has got so far."""
    store = Store(study_run.folder)
    store.save_config(study_run.config)
    store.files.journal.unlink(missing_ok=True)
    hashes = {"config": study_run.config.sha256, "base_model": "00", "schema": "00", "adapter": "00"}
    for line in (Created(format=FORMAT, federation="f", **hashes), *(EVENTS[event] for event in events)):
        store.log(line)
    return store


def finished(study_run: StudyRun, right: str, *, megabytes: float = 1.0) -> None:
    """A finished run that answered the held-out problems like this: `1` right, `0` wrong."""
    store, answers = begun(study_run, "PLANNED", "COMMITTED", "FINISHED"), []
    for number, marks in ((0, "0" * len(right)), (study_run.config.federation.rounds, right)):
        tally = Tally(problems=len(marks), correct=marks.count("1"), gained=marks.count("1"))
        for decoding in ("greedy", "sampled"):
            store.add_metrics(
                EvaluationMetrics(round=number, decoding=decoding, clients=("client-0",), total=tally, classes={})
            )
            of = {"round": number, "decoding": decoding}
            answers.append({**of, "client": "client-0", "right": marks, "problems": list(range(len(marks)))})
    store.add_metrics(
        RoundMetrics(
            round=1,
            seconds=3.0,
            bytes_up=round(megabytes * 1e6),
            bytes_down=round(2e6 * megabytes),
            update_norm=1.0,
            clients={"client-0": ClientMetrics(share=1.0)},
        )
    )
    store.files.answers.write_text("".join(json.dumps(line) + "\n" for line in answers))
