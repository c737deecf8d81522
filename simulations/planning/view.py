"""A plan in words and tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ...client.learner.models.precision import SMALL_BYTES, cores, processor_bfloat16
from ...common.cli.options import plain
from ...common.cli.tables import WholeTable
from .parts import ALWAYS, EVALUATION, SAMPLING, UPDATE, WIDTH
from .plan import USABLE, Plan

WHEN = {ALWAYS: "always", UPDATE: "in the update", SAMPLING: "while sampling", EVALUATION: "while evaluating"}


def print_plan(plan: Plan) -> None:
    """The whole plan: the model, memory and whether it fits, what to change, bytes, work, hours."""
    console = Console()
    shape = plan.shape
    console.print(
        f"\n[bold]{plain(plan.config.model.name)}[/bold]: {shape.parameters:,} parameters, {plain(shape.source)}",
        soft_wrap=True,
    )
    console.print(WholeTable(_memory_table(plan)))
    for line in _verdict(plan):
        console.print(line, soft_wrap=True)
    if plan.turned:
        console.print(WholeTable(_proposal_table(plan)))
        said = (
            "With all of them it fits"
            if plan.proposal_fits
            else "Even with all of them it does not fit: take a smaller model, or"
        )
        console.print(f"{said}:\n  {plan.options}" if plan.proposal_fits else f"{said} a larger GPU.", soft_wrap=True)
    console.print()
    for line in (*_arithmetic(plan), *_traffic(plan), *_work(plan), *_hours(plan)):
        console.print(line, soft_wrap=True)


def size(count: float) -> str:
    """Bytes as people say them.

    >>> size(1_536_000_000), size(12_300_000), size(812)
    ('1.54 GB', '12.3 MB', '812 bytes')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} bytes"


def _memory_table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("memory")
    table.add_column("bytes", justify="right")
    table.add_column("when")
    table.add_column("from", style="dim")
    for part in plan.parts:
        table.add_row(part.name, size(part.bytes), WHEN[part.when], part.formula)
    table.add_row("[bold]at the peak", f"[bold]{size(plan.peak_bytes)}", "", "always + the largest of the others")
    return table


def _verdict(plan: Plan) -> list[str]:
    machine, shared = plan.machine, _shared(plan)
    kind = "GPU" if machine.kind == "cuda" else "machine"
    if plan.fits is None:
        return [shared, "[yellow]Whether it fits is not said: no GPU was given (--gpu 24GB), and none is here."]
    usable = f"{size(plan.usable_bytes)} of the {kind}'s {size(machine.bytes)} ({USABLE:.0%})"
    if plan.vllm_lacks:
        share = f"backend.gpu-memory-utilization {plan.config.backend.gpu_memory_utilization:g}"
        least = f"{share} is {size(plan.vllm_lacks)} too little for vLLM's own base model and one group's KV cache"
        return [shared, f"[red]It does not fit:[/red] {least}. Raise it, quantize, or sample with transformers."]
    if plan.fits:
        return [shared, f"[green]It fits:[/green] {size(plan.peak_bytes)} of the usable {usable}."]
    return [
        shared,
        f"[red]It does not fit:[/red] {size(plan.peak_bytes)}, and usable are {usable}. Turn, in this order:",
    ]


def _shared(plan: Plan) -> str:
    """How many base models all the clients take."""
    real = "A real client has a learner of its own; here"
    clients, processes, models = len(plan.config.simulation.taking_part), plan.processes, plan.models
    if processes * models == 1:
        return (
            f"{real}, {clients} simulated clients share one base model in one process, in turn: each further client "
            "adds megabytes of the machine's memory, and nothing on a GPU."
        )
    many = "one process" if processes == 1 else f"{processes} processes"
    each = "a base model" if models == 1 else f"{models} base models (one per rank of their adapters)"
    return f"{real}, {clients} simulated clients share {many}, {each} in each, all counted in the peak."


def _proposal_table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("knob", "set", "peak then", "costs"):
        table.add_column(name, justify="right" if name == "peak then" else "left")
    for turned in plan.turned:
        pairs = ", ".join(f"{key} = {value}" for key, value in turned.values.items())
        table.add_row(turned.knob.name, pairs, size(turned.peak_bytes), turned.knob.costs)
    return table


def _traffic(plan: Plan) -> list[str]:
    found, most = plan.traffic, "" if plan.traffic.exact else "at most "
    up, down = sorted(set(found.up)), sorted(set(found.down))
    spread = " or ".join(size(n) for n in up)
    return [
        f"Bytes of all clients: up {most}{spread} a round, down {most}{size(down[0])}; over {len(found.up)} rounds up "
        f"{most}{size(sum(found.up))}, down {most}{size(sum(found.down))}, and down {size(found.evaluation_down)} more "
        "to be evaluated. Prompts, completions and the base model do not travel."
    ]


def _arithmetic(plan: Plan) -> list[str]:
    """Say in which type and with how many threads the model computes, where that is a processor's."""
    dtype, able = plan.config.model.dtype, processor_bfloat16()
    large = WIDTH["bfloat16"] * plan.shape.parameters >= SMALL_BYTES
    if plan.machine.kind != "cpu":
        return [f"Arithmetic: {dtype}, on the GPU."]
    threads = max(1, cores() // plan.processes) if large else 1
    line = f"Arithmetic: {dtype}, {threads} thread{'s' if threads > 1 else ''} in each process"
    if dtype == "bfloat16" and not able:
        return [f"{line}. This processor does not multiply bfloat16 and imitates it, slowly: set model.dtype = auto."]
    if dtype == "float32" and able and large:
        return [f"{line}. This processor multiplies bfloat16 ({able}): try model.dtype = auto."]
    return [f"{line}{f' ({able})' if dtype == 'bfloat16' else ''}."]


def _work(plan: Plan) -> list[str]:
    work = plan.work
    return [
        f"Work: {work.rounds} rounds of {work.clients} clients; {work.steps:,} steps of each, "
        f"{work.completions_per_step} completions a step. In all {work.completions:,} to train on "
        f"(at most {work.tokens:,} tokens) and {work.evaluated:,} held-out ones (at most {work.evaluated_tokens:,})."
    ]


def _hours(plan: Plan) -> list[str]:
    found = plan.hours
    if found is None:
        return ["Hours: not known. --calibrate measures a step here; --tokens-per-second gives a speed you know."]
    sampling = f"sampling {_time(found.sampling)}, evaluation {_time(found.evaluation)}"
    if found.update is None or found.total is None:
        return [f"Hours: {sampling}; the update's are not known without --calibrate. From {found.source}."]
    return [f"Hours: {_time(found.total)}: {sampling}, update {_time(found.update)}. From {found.source}."]


def _time(hours: float) -> str:
    """Hours, minutes or seconds."""
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
