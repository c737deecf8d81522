"""Full fine-tuning of a scenario on one client, from its settings to a model folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...client.learner.data.problems import Problem, reading_order
from ...client.learner.data.system_prompts import SYSTEM_PROMPTS
from ...common.analysis.scores import Score, score
from ...common.errors import ConfigError, DataError
from ...common.messages.messages import Evaluation
from ...common.seeds import derived_seed
from ...common.settings.run_config import RunConfig, load_scenario
from ...common.storage.atomic import write_atomic
from ...common.storage.jsonl import Entry, append_line, as_line, read_lines
from ...server.main import run_folder
from ...server.run.store import Store
from ..engine import runner
from ..engine.simulated_clients import client_name, client_rewards, divide, resolve_model

if TYPE_CHECKING:
    from ...client.learner.models.base_model import Base
    from ...client.learner.training.evaluate import Answered
    from ...client.learner.training.full import FullTrainer

Watch = Callable[[str], None]
METRICS, SETTINGS, MODEL = "metrics.jsonl", "config.resolved.toml", "model"


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
            "model": str(self.folder / MODEL),
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


def settings_of(folder: Path) -> RunConfig:
    """Return the settings of a run that was stopped.

    Raises:
        ConfigError: the folder does not hold a run, or the run is finished.
    """
    if not (folder / SETTINGS).is_file() or (folder / "journal.jsonl").exists():
        raise ConfigError(f"{folder} is not a run folder of fedgrpo finetune.")
    if (folder / MODEL).exists():
        raise ConfigError(f"{folder} is finished: its model is in {folder / MODEL}.")
    config = load_scenario(folder / SETTINGS)
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
    with Store(folder).locked():
        write_atomic(folder / SETTINGS, config.to_toml().encode())
        return _run(config, folder, say, started)


def _check_own(folder: Path, config: RunConfig) -> None:
    """Refuse a folder that holds another run, whose settings and metrics would be overwritten.

    Raises:
        ConfigError: it holds a federated run, a finished one, or one with other settings.
    """
    if not (folder / SETTINGS).is_file():
        return
    before, current = settings_of(folder).flat(), config.flat()
    other = sorted(key for key in current if before[key] != current[key] and not key.startswith("output."))
    if other:
        raise ConfigError(
            f"{folder} holds a run whose {other[0]} is {before[other[0]]}, not {current[other[0]]}. Use --resume to "
            "continue it with its settings, or another --run."
        )


def _run(config: RunConfig, folder: Path, say: Watch, started: float) -> Finetuned:
    from ...client.learner.models.base_model import Base
    from ...client.learner.training.full import FullTrainer
    from ...client.learner.training.local_learner import prepare_process

    device = prepare_process()
    path = resolve_model(config.model.name, config.model.revision, config.backend.source)
    base = Base.load(path, "float32", device)
    shards, held_out = divide(config)
    rows = _rows(base, shards[0], config)
    trainer = FullTrainer(base, config, rows, client_rewards(config)[0], folder / "checkpoints")
    say(f"{config.total_steps} steps over all {base.model.num_parameters():,} weights; answering held-out problems")
    before = _answers(base, trainer, held_out, config)
    lines = _completed_lines(folder / METRICS, trainer.steps_done)

    def step(number: int, metrics: dict[str, float]) -> None:
        lines.append({"kind": "step", "step": number, **metrics})
        append_line(folder / METRICS, lines[-1])
        say(f"step {number} of {config.total_steps}: reward {metrics.get('reward', nan):.3f}")

    trainer.train(step)
    evaluations = _counted(before, _answers(base, trainer, held_out, config), held_out, config)
    for decoding, counts in evaluations.items():
        append_line(folder / METRICS, {"kind": "evaluation", "decoding": decoding, **asdict(counts)})
    rewards = [float(str(line["reward"])) for line in lines if "reward" in line]
    scores = {decoding: score(counts.total) for decoding, counts in evaluations.items()}
    sha256 = trainer.save(folder / MODEL)
    ends = (rewards[0], rewards[-1])
    return Finetuned(folder, sha256, config.total_steps, scores, ends, time.perf_counter() - started)


def _rows(base: Base, shard: list[Problem], config: RunConfig) -> list[dict[str, Any]]:
    """Return all prompts of the run in order; those that are too long are left out, as for any client."""
    from ...client.learner.training.evaluate import prompt_texts

    system, limit = SYSTEM_PROMPTS[config.simulation.system_prompt], config.grpo.max_prompt_length
    ids = base.tokenizer(prompt_texts(base.tokenizer, shard, system), add_special_tokens=False)["input_ids"]
    kept = [problem for problem, tokens in zip(shard, ids, strict=True) if len(tokens) <= limit]
    if not kept:
        raise DataError(f"There is no prompt of at most grpo.max-prompt-length = {limit} tokens. Raise the limit.")
    count = config.prompts_in(config.total_steps)
    order = reading_order(len(kept), 0, count, seed=config.federation.seed, reader=client_name(0))
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


def _completed_lines(path: Path, step: int) -> list[Entry]:
    """Return the lines of the steps that a checkpoint holds, and remove the later ones, which will be repeated."""
    lines = [line for line in read_lines(path) if line["kind"] == "step" and int(str(line["step"])) <= step]
    write_atomic(path, b"".join(as_line(line) for line in lines))
    return lines
