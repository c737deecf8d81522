"""What was run and what came of it, in three sentences; and the command that does it again."""

from __future__ import annotations

import shlex

from ...common.analysis.scores import points, score
from ...server.run.journal import Void
from ...server.run.reader import Run


def sentences(run: Run) -> list[str]:
    """Return what was run, what came of it, and what it took."""
    return [_what(run), _outcome(run), _cost(run)]


def again(run: Run) -> str:
    """Return the command that simulates the run again; empty for a real federation, whose data is not here."""
    if not run.files.samples.exists() and not run.files.inputs.exists():
        return ""
    words = ["fedgrpo", "simulate", str(run.files.settings), "--out", str(run.folder.parent)]
    return shlex.join([*words, "--run", f"{run.folder.name}-again"])


def _what(run: Run) -> str:
    config, rounds = run.config, len(run.rounds)
    clients = max((len(line.members) or len(line.clients) for line in run.rounds), default=0)
    hidden = ", seen as a sum only" if config.privacy.mode != "none" else ""
    who = "1 client" if clients == 1 else f"{clients} clients"
    return (
        f"{who} trained {config.model.name} by GRPO for {rounds} of {config.federation.rounds} rounds, "
        f"{config.train.steps_per_round} steps in each; {config.method_name} combined their updates{hidden}."
    )


def _outcome(run: Run) -> str:
    found = score(run.after.total)
    verdict = "rose" if found.gain_low > 0 else "fell" if found.gain_high < 0 else "did not change for sure"
    greedy = [score(e.total).strict for e in run.greedy]
    decoded = f"; decoded greedily, {greedy[0]:.1%} to {greedy[-1]:.1%}" if len(greedy) > 1 else ""
    return (
        f"Held-out accuracy, sampled, {verdict}: {found.base:.1%} to {found.strict:.1%} of {found.problems} problems "
        f"({points(found.gain)}, {found.interval}){decoded}."
    )


def _cost(run: Run) -> str:
    up, down = (sum(getattr(line, f"bytes_{way}") for line in run.rounds) / 1e6 for way in ("up", "down"))
    seconds = sum(line.seconds for line in run.rounds)
    refused = sum(len(line.refused) for line in run.rounds)
    trouble = {"void attempts": len(run.journal.of(Void)), "refused updates": refused, "warnings": len(run.warnings())}
    told = ", ".join(f"{count} {name}" for name, count in trouble.items() if count) or "not one void attempt or warning"
    spent = f"; epsilon {run.epsilon:.3g} was spent at most" if run.epsilon is not None else ""
    return f"It took {seconds:.0f} s in the rounds, {up:.1f} MB up and {down:.1f} MB down, with {told}{spent}."
