"""What aggregation costs, beside what others do for the same result. CPU seconds of one thread, ratios of one run.

    python benchmarks/aggregation.py            a minute or two
    python benchmarks/aggregation.py --quick

- The fold: 64 clients x 4.4 M parameters, ours from the updates on the disk, against Flower's `FedAvg.aggregate_train`
  from the replies in memory. Time, and peak memory above the process's own at 16 and at 64 clients.
- `svd`: factors (QR and a small SVD) against the dense SVD of the mean product, as FlexLoRA computes it.
- Each method's fold with its error, on the same adapter.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.methods import METHODS
from fedgrpo.common.adapter.schema import AdapterSchema, Module
from fedgrpo.common.flower_private import identify_process
from fedgrpo.common.settings.aggregation import Aggregation
from fedgrpo.server.aggregation.aggregate import next_adapter
from fedgrpo.server.aggregation.lowrank import Product
from fedgrpo.server.aggregation.methods import mean_delta
from fedgrpo.server.aggregation.products import ClientUpdate
from fedgrpo.server.run.store import Store
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from rich.console import Console
from rich.table import Table

REPEATS = 3


@dataclass(frozen=True, slots=True)
class Size:
    """How much is folded."""

    clients: int
    layers: int
    width: int
    svd_clients: int
    rank: int


FULL = Size(clients=64, layers=24, width=2048, svd_clients=16, rank=16)
QUICK = Size(clients=16, layers=3, width=512, svd_clients=8, rank=8)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one thread, the median of a few repetitions after one that does not count."""
    work()
    found = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return statistics.median(found)


def qwen_schema(layers: int) -> AdapterSchema:
    """LoRA of rank 8 on all linear layers of so many layers of Qwen2.5-0.5B; the model has 24, and 4.4 M parameters."""
    widths = {
        "mlp.down_proj": (4864, 896),
        "mlp.gate_proj": (896, 4864),
        "mlp.up_proj": (896, 4864),
        "self_attn.k_proj": (896, 128),
        "self_attn.o_proj": (896, 896),
        "self_attn.q_proj": (896, 896),
        "self_attn.v_proj": (896, 128),
    }
    modules = tuple(Module(f"layers.{k:02d}.{name}", *pair) for k in range(layers) for name, pair in widths.items())
    return AdapterSchema(modules=modules, rank=8, alpha=16, holds=("A", "B"), seed=0)


def deltas(schema: AdapterSchema, clients: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=schema.size).astype(np.float32) * np.float32(1e-3) for _ in range(clients)]


def ours(folder: Path, schema: AdapterSchema, clients: int) -> np.ndarray:
    store = Store(folder)
    given = [ClientUpdate(1 / clients, 1.0, schema, store.kept_update(f"c{k:03d}")) for k in range(clients)]
    return mean_delta(Adapter.initial(schema), given, holders=False)


def flower_replies(folder: Path, schema: AdapterSchema, clients: int) -> list[Message]:
    """The same updates as Flower's strategy takes them: one array per layer."""
    identify_process()
    replies = []
    for k in range(clients):
        parts = Adapter(schema, Store(folder).kept_update(f"c{k:03d}")[:]).parts()
        arrays = ArrayRecord({".".join(key): Array(np.ascontiguousarray(part)) for key, part in parts.items()})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        replies.append(Message(content, reply_to=Message(RecordDict(), k + 2, "train")))
    return replies


def flower_mean(replies: list[Message]) -> dict[str, np.ndarray]:
    arrays, _ = FedAvg().aggregate_train(1, replies)
    assert arrays is not None
    return {name: array.numpy() for name, array in arrays.items()}


def peak_memory(which: str, folder: Path, layers: int, clients: int) -> float:
    """MB that a process takes for one fold, above what it had before it read any update; at least 1."""
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (queue, which, folder, layers, clients)
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=arguments)
    process.start()
    process.join()
    return queue.get()


def _measure(queue, which: str, folder: Path, layers: int, clients: int) -> None:
    schema = qwen_schema(layers)
    before = _peak_mb()
    if which == "ours":
        ours(folder, schema, clients)
    else:
        flower_mean(flower_replies(folder, schema, clients))
    queue.put(max(1.0, _peak_mb() - before))


def _peak_mb() -> float:
    """This program's own peak: that of `resource` counts what the process was before it became this program."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def fold(size: Size, table: Table) -> tuple[dict[str, float], dict[str, float]]:
    schema = qwen_schema(size.layers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(folder)
        for k, delta in enumerate(deltas(schema, size.clients)):
            store.keep_update(f"c{k:03d}", delta)
        replies = flower_replies(folder, schema, size.clients)
        mine, theirs = ours(folder, schema, size.clients), flower_mean(replies)
        for key, part in Adapter(schema, mine.astype(np.float32)).parts().items():
            np.testing.assert_allclose(part, theirs[".".join(key)], atol=1e-7)
        own_s = seconds(lambda: ours(folder, schema, size.clients))
        flower_s = seconds(lambda: flower_mean(replies))
        few = size.clients // 4
        memory = {
            f"{which}_{n}_clients_mb": peak_memory(which, folder, size.layers, n)
            for which in ("ours", "flower")
            for n in (few, size.clients)
        }
    what = f"{size.clients} clients x {schema.size / 1e6:.1f} M"
    table.add_row(f"mean of {what}, CPU s", f"{own_s:.3f}", f"{flower_s:.3f} (Flower)", f"{flower_s / own_s:.1f}")
    for n in (few, size.clients):
        mine_mb, theirs_mb = memory[f"ours_{n}_clients_mb"], memory[f"flower_{n}_clients_mb"]
        table.add_row(
            f"peak memory, {n} clients, MB", f"{mine_mb:.0f}", f"{theirs_mb:.0f}", f"{theirs_mb / mine_mb:.1f}"
        )
    ratios = {"fold_time_flower_to_ours": flower_s / own_s}
    grown = memory[f"ours_{size.clients}_clients_mb"] / memory[f"ours_{few}_clients_mb"]
    return {**ratios, "our_memory_at_4x_clients": grown}, {"fold_s": own_s, "flower_s": flower_s, **memory}


def svd(size: Size, table: Table) -> tuple[dict[str, float], dict[str, float]]:
    generator = np.random.default_rng(0)
    factors = [
        (generator.normal(size=(size.width, size.rank)), generator.normal(size=(size.rank, size.width)))
        for _ in range(size.svd_clients)
    ]
    share = 1 / size.svd_clients

    def small() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        left = np.concatenate([share * b for b, _ in factors], axis=1)
        return Product(left, np.concatenate([a for _, a in factors])).truncated(size.rank)

    def dense() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        u, s, vt = np.linalg.svd(sum(share * (b @ a) for b, a in factors), full_matrices=False)
        return u[:, : size.rank], s[: size.rank], vt[: size.rank]

    start = time.process_time()
    u, s, vt = dense()
    dense_s = time.process_time() - start
    found_u, found_s, found_vt = small()
    exact = (u * s) @ vt
    gap = float(np.linalg.norm((found_u * found_s) @ found_vt - exact) / np.linalg.norm(exact))
    assert gap < 1e-5
    small_s = seconds(small)
    what = f"svd of {size.svd_clients} clients, d = {size.width}, rank {size.rank}, CPU s"
    table.add_row(what, f"{small_s:.3f}", f"{dense_s:.2f} (dense SVD)", f"{dense_s / small_s:.0f}")
    return {"svd_dense_to_ours": dense_s / small_s}, {"svd_s": small_s, "dense_svd_s": dense_s, "svd_difference": gap}


def methods(table: Table) -> dict[str, float]:
    """Seconds of a whole step, fold and error, of 16 clients with 14 layers of 512 x 512, rank 16."""
    found = {}
    modules = tuple(Module(f"layer.{k:02d}", 512, 512) for k in range(14))
    for name, method in METHODS.items():
        size = 13 if name == "tiny" else 0
        schema = AdapterSchema(modules=modules, rank=16, alpha=32, holds=method.holds, seed=0, tiny_size=size)
        generator, start = np.random.default_rng(0), Adapter.initial(schema)
        parts = {
            f"c{k}": {
                key: generator.normal(size=part.shape) * 1e-3 if key[1] in method.trains_in(1) else 0 * part
                for key, part in start.parts().items()
            }
            for k in range(16)
        }
        given = {n: ClientUpdate(1 / 16, 1.0, schema, Adapter.from_parts(schema, p).vector) for n, p in parts.items()}
        began = time.process_time()
        step = next_adapter(start, {}, given, Aggregation(method=name))
        found[f"{name}_step_s"] = time.process_time() - began
        table.add_row(
            f"{name}: step of 16 clients, CPU s", f"{found[f'{name}_step_s']:.3f}", f"error {step.error:.1e}", ""
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs")
    size = QUICK if parser.parse_args().quick else FULL
    table = Table("what", "ours", "other", "ratio", box=None)
    fold_ratios, fold_figures = fold(size, table)
    svd_ratios, svd_figures = svd(size, table)
    figures = {**fold_figures, **svd_figures, **methods(table)}
    Console(width=110).print(table)
    ratios = {name: round(value, 3) for name, value in {**fold_ratios, **svd_ratios}.items()}
    print(json.dumps({"name": "aggregation", "ratios": ratios, "figures": figures}))


if __name__ == "__main__":
    main()
