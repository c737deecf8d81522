"""The files of organisations that are simulated in real processes: their settings follow from the run's alone."""

from __future__ import annotations

from ...client.learner.rewards import absolute_paths
from ...client.organisation.settings import Data, Identity, Membership, Organisation, Policy, Prompt, Rewards, Tools
from ...common.identity.manifest import Manifest
from ...common.messages.metric_names import LARGEST_EPSILON
from ...common.settings.run_config import RunConfig
from ...server.main import run_folder
from ...server.run.layout import RunFolder
from .federation_keys import IDENTITY, own_folder
from .simulated_clients import SYSTEM_PROMPTS, client_name


def organisation_settings(config: RunConfig, number: int, labels: tuple[str, ...]) -> Organisation:
    """Return an organisation's settings that follow from the run's alone."""
    simulation = config.simulation
    specs = simulation.rewards.split(";")
    return Organisation(
        organisation=Identity(name=client_name(number)),
        data=Data(train="train.jsonl", held_out="held_out.jsonl", labels=labels),
        prompt=Prompt(system=SYSTEM_PROMPTS[simulation.system_prompt]),
        rewards=Rewards(use=specs[number % len(specs)]),
        tools=Tools(
            use=absolute_paths(simulation.tools),
            environment=absolute_paths(simulation.environment),
            turns=simulation.tool_turns,
        ),
        backend=config.backend,
        policy=_just_this_run(config),
    )


def membership(config: RunConfig, number: int) -> Membership:
    """Return where an organisation's manifest and identity are, which the run folder has for secure aggregation."""
    if config.privacy.mode != "secagg":
        return Membership()
    folder = own_folder(config, client_name(number))
    return Membership(manifest=str(RunFolder(run_folder(config)).manifest), identity=str(folder / IDENTITY))


def _just_this_run(config: RunConfig) -> Policy:
    """Return a policy that allows what these settings need, and nothing else."""
    grpo, evaluation = config.grpo, config.evaluation
    per_step = grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps
    secret = config.privacy.mode == "secagg"
    return Policy(
        privacy="secagg" if secret else "none",
        manifest_sha256=Manifest.read(RunFolder(run_folder(config)).manifest).sha256 if secret else "",
        max_rank=config.adapter.rank,
        max_alpha=config.adapter.alpha,
        methods=(config.method_name,),
        target_modules=tuple(name.strip() for name in config.adapter.target_modules.split(",")),
        max_learning_rate=grpo.learning_rate,
        min_learning_rate=grpo.learning_rate,
        min_temperature=0.0,
        max_rounds=config.federation.rounds,
        max_steps_per_round=config.train.steps_per_round,
        max_seconds_per_round=config.train.seconds_per_round,
        max_generations=grpo.num_generations,
        max_completions_per_step=max(per_step, evaluation.batch_size),
        max_new_tokens=max(grpo.max_completion_length, evaluation.max_completion_length),
        max_left_out_share=1.0,
        min_members=1,
        max_delta_norm=config.intake.max_delta_norm,
        max_bytes_per_round=1 << 40,
        max_epsilon=LARGEST_EPSILON if config.dp.on else 0.0,
        max_delta=config.dp.delta,
        metrics=("*",),
        min_groups=config.train.block_size or 1,
        max_trainings=1 << 30,
        max_evaluations=1 << 30,
        evaluate=True,
        class_columns=("style", *evaluation.class_columns),
        min_class_problems=1,
        report_hardware=True,
    )
