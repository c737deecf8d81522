"""A look at a division before anything is trained: table, bars, picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...client.learner.data.problems import Problem
from ...common.cli.tables import WholeTable
from ...common.settings.run_config import RunConfig
from ..engine.simulated_clients import client_name, divide

BAR = 24
MIN_WIDTH_FOR_BARS = 110


@dataclass(frozen=True, slots=True)
class Split:
    """The shards of a scenario, and the label by which to look at them."""

    config: RunConfig
    shards: list[list[Problem]]
    label: str

    @classmethod
    def of(cls, config: RunConfig) -> Split:
        """Divide the scenario's problems. Looks by the label divided by, or by the number of steps."""
        shards, _ = divide(config)
        by_label = config.simulation.partition in ("dirichlet", "label")
        return cls(config, shards, config.simulation.partition_label if by_label else "steps")

    @property
    def values(self) -> list[str]:
        """All values of the label; numbers in their own order."""
        found = {problem.labels[self.label] for shard in self.shards for problem in shard}
        return sorted(found, key=lambda value: (len(value), value) if value.isdigit() else (99, value))

    def counts(self) -> list[Counter[str]]:
        """Per client, problems by value."""
        return [Counter(problem.labels[self.label] for problem in shard) for shard in self.shards]

    def as_json(self) -> dict[str, Any]:
        """The split in numbers."""
        clients = [
            {"client": client_name(k), "problems": len(shard), "by": dict(sorted(counter.items()))}
            for k, (shard, counter) in enumerate(zip(self.shards, self.counts(), strict=True))
        ]
        return {"partition": self.config.simulation.partition, "label": self.label, "clients": clients}

    def print_table(self, plot: Path) -> None:
        """Counts per client and value, with a bar for the size of each shard."""
        settings = self.config.simulation
        table = Table(title=f"{settings.dataset}, {settings.partition}, {settings.clients} clients, by {self.label}")
        console = Console()
        wide = console.width >= MIN_WIDTH_FOR_BARS
        table.add_column("client")
        table.add_column("problems", justify="right")
        if wide:
            table.add_column("")
        for value in self.values:
            table.add_column(value, justify="right")
        largest = max(map(len, self.shards))
        for k, (shard, counter) in enumerate(zip(self.shards, self.counts(), strict=True)):
            bar = "█" * max(1, round(BAR * len(shard) / largest))
            counts = [str(counter[value]) for value in self.values]
            table.add_row(client_name(k), str(len(shard)), *([bar] if wide else []), *counts)
        console.print(WholeTable(table))
        print(f"Wrote {plot}")

    def plot(self, path: Path) -> None:
        """Draw the split as stacked bars."""
        import matplotlib as mpl

        mpl.use("agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(8, 0.6 + 0.4 * len(self.shards)), layout="constrained")
        names = [client_name(k) for k in range(len(self.shards))]
        left = [0] * len(names)
        colours = plt.get_cmap("viridis")
        for number, value in enumerate(self.values):
            widths = [counter[value] for counter in self.counts()]
            colour = colours(number / max(1, len(self.values) - 1))
            axes.barh(names, widths, left=left, label=value, color=colour)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("problems")
        axes.legend(title=self.label, bbox_to_anchor=(1.0, 1.0), loc="upper left", fontsize="small")
        figure.savefig(path, dpi=120)
        plt.close(figure)
