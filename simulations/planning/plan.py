"""A plan: memory, traffic and work of a scenario, and what to change if it does not fit."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ...client.learner.models.precision import automatic_dtype
from ...common.settings.run_config import RunConfig
from ..engine.runner import default_workers
from ..engine.simulated_clients import client_rank
from .advice import Turned, proposal
from .memory import memory_parts, vllm_needs
from .parts import WIDTH, Machine, Part, peak
from .shapes import Shape, shape_of
from .traffic import Traffic, traffic
from .workload import Hours, Speed, Work, as_json, hours, work

USABLE = 0.92
"""Share of the memory that a plan may fill. The rest is for the driver and for fragmentation."""

IMPOSSIBLE = 1 << 62
"""Bytes that stand for a plan that cannot run at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The needs of a scenario on a machine."""

    config: RunConfig
    shape: Shape
    machine: Machine
    parts: list[Part]
    """Parts of one process."""
    processes: int
    """Worker processes, each with its own base model."""
    models: int
    """Base models in a process: one per rank of its clients' adapters."""
    traffic: Traffic
    work: Work
    hours: Hours | None
    turned: list[Turned]
    """The proposal, if the plan does not fit."""
    proposal_fits: bool

    @property
    def peak_bytes(self) -> int:
        """Bytes at the peak, of all processes."""
        return _peak(self.config, self.shape, self.machine)

    @property
    def usable_bytes(self) -> int:
        """Bytes a plan may fill; 0 if the machine's memory is unknown."""
        return int(USABLE * self.machine.bytes)

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None if the machine's memory is unknown."""
        if not self.machine.bytes:
            return None
        return self.peak_bytes <= self.usable_bytes and not self.vllm_lacks

    @property
    def vllm_lacks(self) -> int:
        """Bytes by which vLLM's share is too small for its base model and one group; 0 if it is large enough."""
        return _vllm_lacks(self.config, self.shape, self.machine)

    @property
    def options(self) -> str:
        """The proposal as command-line options."""
        pairs = {key: value for turned in self.turned for key, value in turned.values.items()}
        return " ".join(f"--set {key}={value}" for key, value in pairs.items())

    def as_json(self) -> dict[str, object]:
        """Return all numbers for JSON."""
        schema_bytes = {"up": list(self.traffic.up), "down": list(self.traffic.down)}
        turned = [{"knob": t.knob.name, "set": t.values, "peak_bytes": t.peak_bytes} for t in self.turned]
        return {
            "model": {
                "name": self.config.model.name,
                "source": self.shape.source,
                "family": self.shape.family,
                "parameters": self.shape.parameters,
            },
            "machine": asdict(self.machine),
            "memory": {
                "parts": [asdict(part) for part in self.parts],
                "peak_bytes": self.peak_bytes,
                "usable_bytes": self.usable_bytes,
                "fits": self.fits,
                "vllm_lacks_bytes": self.vllm_lacks,
                "processes": self.processes,
                "base_models": self.processes * self.models,
            },
            "proposal": {"fits": self.proposal_fits, "knobs": turned, "options": self.options},
            "bytes": {
                "per_round": schema_bytes,
                "up": sum(self.traffic.up),
                "down": sum(self.traffic.down),
                "evaluation_down": self.traffic.evaluation_down,
                "exact": self.traffic.exact,
            },
            "work": asdict(self.work),
            "hours": as_json(self.hours),
        }


def make_plan(config: RunConfig, machine: Machine, speed: Speed | None) -> Plan:
    """Compute the needs of a scenario on a machine, and how long it takes at a speed.

    Raises:
        ConfigError: the model's shape is unknown, or no layer matches adapter.target-modules.
    """
    shape = shape_of(config.model.name, config.model.revision)
    config = with_dtype(config, shape, machine)
    limit, turned = int(USABLE * machine.bytes), list[Turned]()

    def with_vllm(chosen: RunConfig) -> int:
        return IMPOSSIBLE if _vllm_lacks(chosen, shape, machine) else _peak(chosen, shape, machine)

    fits = with_vllm(config) <= limit
    if machine.bytes and not fits:
        turned, fits = proposal(config, with_vllm, limit)
    workload, processes = work(config), process_count(config, machine)
    return Plan(
        config=config,
        shape=shape,
        machine=machine,
        parts=memory_parts(config, shape, machine),
        processes=processes,
        models=_models(config),
        traffic=traffic(config, shape),
        work=workload,
        hours=hours(workload, speed, processes) if speed else None,
        turned=turned,
        proposal_fits=fits,
    )


def with_dtype(config: RunConfig, shape: Shape, machine: Machine) -> RunConfig:
    """Return the settings with `model.dtype = auto` resolved for a machine: this one's processor, or a recent GPU."""
    if config.model.dtype != "auto":
        return config
    on_gpu = True if machine.kind == "cuda" else None
    weights = WIDTH["bfloat16"] * shape.parameters
    return config.with_values({"model.dtype": automatic_dtype(config, weights, gpu_bfloat16=on_gpu)})


def process_count(config: RunConfig, machine: Machine) -> int:
    """Return the worker processes of a simulation: the setting's, else one with a GPU, else one per core."""
    usual = 1 if machine.kind == "cuda" else default_workers()
    return min(config.simulation.workers or usual, len(config.simulation.taking_part))


def _vllm_lacks(config: RunConfig, shape: Shape, machine: Machine) -> int:
    share = int(config.backend.gpu_memory_utilization * machine.bytes)
    return max(0, vllm_needs(config, shape, machine) - share) if machine.bytes else 0


def _models(config: RunConfig) -> int:
    """Return the number of base models in a process: one per rank, since any process may have clients of all ranks."""
    return len({client_rank(config, k) or config.adapter.rank for k in config.simulation.taking_part})


def _peak(config: RunConfig, shape: Shape, machine: Machine) -> int:
    """Return the bytes of all processes, with another base model for each further rank."""
    parts = memory_parts(config, shape, machine)
    further = sum(part.bytes for part in parts if part.name in ("base model", "adapter", "reference adapter"))
    return process_count(config, machine) * (peak(parts) + (_models(config) - 1) * further)
