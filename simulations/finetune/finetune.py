"""Full fine-tuning of a scenario on one client, from its settings to a model folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...client.learner.data.problems import Problem, in_blocks, reading_order
from ...client.learner.data.system_prompts import SYSTEM_PROMPTS
from ...client.learner.models.load import load_model
from ...client.learner.models.model_files import model_folder
from ...common.analysis.scores import Score, score
from ...common.errors import ConfigError, DataError
from ...common.messages.messages import Evaluation
from ...common.seeds import derived_seed
from ...common.settings.run_config import RunConfig, load_scenario
from ...common.storage.atomic import write_atomic
from ...common.storage.jsonl import Entry, append_line, as_line
from ...server.main import run_folder
from ...server.run.layout import RunFolder
from ...server.run.lines import OTHERS, as_entry, parsed, read_typed
from ...server.run.lock import locked
from ..engine import runner
from ..engine.simulated_clients import client_name, client_rewards, divide

if TYPE_CHECKING:
    from ...client.learner.models.base_model import Base
    from ...client.learner.training.evaluate import Answered
    from ...client.learner.training.full import FullTrainer

Watch = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Finetuned:
    """Result of a run."""

    folder: Path
    sha256: str
    """Hash of the model folder."""
    steps: int
    scores: dict[str, Score]
    """Scores by decoding, against the initial model on the same problems."""
    rewards: tuple[float, float]
    """Mean rewards of the first and of the last step."""
    seconds: float
    """Seconds of this process; a resumed run counts only its own."""

    def as_json(self) -> dict[str, Any]:
        """Return the result as `finetune --format json` prints it."""
        sampled, greedy = self.scores["sampled"], self.scores["greedy"]
        return {
            "run_dir": str(self.folder),
            "model": str(RunFolder(self.folder).model),
            "sha256": self.sha256,
            "steps": self.steps,
            "accuracy": {
                "before": sampled.base,
                "after": sampled.strict,
                "gain": sampled.gain,
                "interval": [sampled.gain_low, sampled.gain_high],
                "problems": sampled.problems,
                "greedy": {"before": greedy.base, "after": greedy.strict},
            },
            "reward": {"first": self.rewards[0], "last": self.rewards[1]},
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimizer step, a line of metrics.jsonl."""

    step: int
    figures: dict[str, float] = field(metadata=OTHERS)
    """TRL's metrics, under `train/` and TRL's own names."""

    def as_entry(self) -> Entry:
        """Return the step as it is written."""
        return {"kind": "step", **as_entry(self)}


def settings_of(folder: Path) -> RunConfig:
    """Return the settings of a run that was stopped.

    Raises:
        ConfigError: the folder does not hold a run, or the run is finished.
    """
    files = RunFolder(folder)
    if not files.settings.is_file() or files.begun:
        raise ConfigError(f"{folder} is not a run folder of fedgrpo finetune.")
    if files.model.exists():
        raise ConfigError(f"{folder} is finished: its model is in {files.model}.")
    config = load_scenario(files.settings)
    return config.with_values({"output.dir": str(folder.resolve().parent), "output.run": folder.resolve().name})


def finetune(config: RunConfig, say: Watch) -> Finetuned:
    """Train all weights as the settings say, or resume a stopped run; measures accuracy before and after.

    Raises:
        ConfigError: more than one client, or a setting that needs an adapter.
        RewardError, DataError: a reward function failed, or the data are wrong.
    """
    from ...client.learner.training.full import check_full

    check_full(config)
    folder, started = run_folder(config), time.perf_counter()
    _check_own(folder, config)
    runner.check(config)
    runner.same_inputs(config)
    with locked(folder):
        write_atomic(RunFolder(folder).settings, config.to_toml().encode())
        return _run(config, folder, say, started)


def _check_own(folder: Path, config: RunConfig) -> None:
    """Refuse a folder that holds another run, whose settings and metrics would be overwritten.

    Raises:
        ConfigError: it holds a federated run, a finished one, or one with other settings.
    """
    if not RunFolder(folder).settings.is_file():
        return
    before, current = settings_of(folder).flat(), config.flat()
    other = sorted(key for key in current if before[key] != current[key] and not key.startswith("output."))
    if other:
        raise ConfigError(
            f"{folder} holds a run whose {other[0]} is {before[other[0]]}, not {current[other[0]]}. Use --resume to "
            "continue it with its settings, or another --run."
        )


def _run(config: RunConfig, folder: Path, say: Watch, started: float) -> Finetuned:
    path = model_folder(config.model.name, config.model.revision, config.backend.source)
    base = load_model(path, "float32")
    from ...client.learner.training.full import FullTrainer

    files = RunFolder(folder)
    shards, held_out = divide(config)
    rows = _rows(base, shards[0], config)
    trainer = FullTrainer(base, config, rows, client_rewards(config)[0], files.checkpoints)
    say(f"{config.total_steps} steps over all {base.model.num_parameters():,} weights; answering held-out problems")
    before = _answers(base, trainer, held_out, config)
    lines = _completed_steps(files.metrics, trainer.steps_done)

    def step(number: int, metrics: dict[str, float]) -> None:
        lines.append(StepMetrics(number, {f"train/{name}": value for name, value in metrics.items()}))
        append_line(files.metrics, lines[-1].as_entry())
        say(f"step {number} of {config.total_steps}: reward {metrics.get('reward', nan):.3f}")

    trainer.train(step)
    evaluations = _counted(before, _answers(base, trainer, held_out, config), held_out, config)
    for decoding, counts in evaluations.items():
        classes = {name: asdict(tally) for name, tally in counts.classes.items()}
        line = {"kind": "evaluation", "decoding": decoding, "total": asdict(counts.total), "classes": classes}
        append_line(files.metrics, line)
    rewards = [line.figures["train/reward"] for line in lines if "train/reward" in line.figures]
    scores = {decoding: score(counts.total) for decoding, counts in evaluations.items()}
    sha256 = trainer.save(files.model)
    ends = (rewards[0], rewards[-1])
    return Finetuned(folder, sha256, config.total_steps, scores, ends, time.perf_counter() - started)


def _rows(base: Base, shard: list[Problem], config: RunConfig) -> list[dict[str, Any]]:
    """Return all prompts of the run in order; those that are too long are left out, as for any client."""
    from ...client.learner.training.evaluate import prompt_texts

    system, limit = SYSTEM_PROMPTS[config.simulation.system_prompt], config.grpo.max_prompt_length
    ids = base.tokenizer(prompt_texts(base.tokenizer, shard, system), add_special_tokens=False)["input_ids"]
    block = max(1, config.train.block_size)
    kept = in_blocks(shard, [len(tokens) for tokens in ids], block, limit)
    if not kept:
        raise DataError(f"There is no prompt of at most grpo.max-prompt-length = {limit} tokens. Raise the limit.")
    count = config.prompts_in(config.total_steps)
    order = reading_order(len(kept), 0, count, seed=config.federation.seed, reader=client_name(0), block=block)
    return [kept[i].row(system) for i in order]


def _answers(base: Base, trainer: FullTrainer, held_out: list[Problem], config: RunConfig) -> dict[str, list[Answered]]:
    from ...client.learner.training.evaluate import answer_all

    return {
        decoding: answer_all(
            trainer.sampler,
            base.tokenizer,
            held_out,
            config,
            system_prompt=SYSTEM_PROMPTS[config.simulation.system_prompt],
            temperature=temperature,
            seed=derived_seed(config.federation.seed, "evaluate", client_name(0)),
        )
        for decoding, temperature in (("greedy", 0.0), ("sampled", config.evaluation.temperature))
    }


def _counted(
    before: dict[str, list[Answered]], after: dict[str, list[Answered]], held_out: list[Problem], config: RunConfig
) -> dict[str, Evaluation]:
    from ...client.learner.training.evaluate import count

    columns = config.evaluation.class_columns
    return {decoding: count(held_out, current, before[decoding], columns) for decoding, current in after.items()}


def _completed_steps(path: Path, step: int) -> list[StepMetrics]:
    """Return the steps that a checkpoint holds, and remove the later ones, which will be repeated."""
    steps = [line for line in read_typed(path, _step) if line is not None and line.step <= step]
    write_atomic(path, b"".join(as_line(line.as_entry()) for line in steps))
    return steps


def _step(entry: Entry) -> StepMetrics | None:
    """Return the step that a line holds; None for an evaluation. Format 1 had TRL's names without their area."""
    if entry.get("kind") != "step":
        return None
    if "reward" in entry:
        entry = {key if key in ("kind", "step") else f"train/{key}": value for key, value in entry.items()}
    return parsed(StepMetrics, entry)
