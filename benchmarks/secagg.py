"""What masking costs, beside Flower's primitives for the same steps. Seconds, and CPU seconds; ratios of one run.

    python benchmarks/secagg.py            4.4 M parameters, 16 and 64 members: three to five minutes
    python benchmarks/secagg.py --quick

- Client: from the update as floats to the masked vector. Ours: grid, opening the others' boxes, all masks. Flower's:
  `quantize`, a mask of `pseudo_rand_gen` per member, addition and modulus, as in its `secaggplus_mod`.
- Server: from the members' shares to the sum without masks, all members there; and what each member more that is lost
  costs. Flower's: `combine_shares`, `pseudo_rand_gen` and subtraction, as in its `SecAggPlusWorkflow`, measured for a
  few members and multiplied.
- Upload: bytes of a masked vector.

Ours masks in up to four threads, Flower's in one: the CPU seconds compare the work. Both have every member as every
other's neighbour, and a threshold of more than two thirds. Ours signs, seals and checks besides, which Flower's
primitives do not; the seconds of those steps are listed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from fedgrpo.client.learner.masking.masker import Masker
from fedgrpo.client.learner.masking.session import Sessions
from fedgrpo.client.learner.service.ledger import Ledger
from fedgrpo.client.organisation.policy_settings import Policy
from fedgrpo.common.identity.keys import Identity
from fedgrpo.common.identity.manifest import Manifest, Member
from fedgrpo.common.messages.messages import SecaggRequest
from fedgrpo.common.secagg.grid import Grid, grid_of
from fedgrpo.common.secagg.statements import Context
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.secagg.opening import Roster, remove_masks
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    generate_shared_key,
    private_key_to_bytes,
    public_key_to_bytes,
)
from flwr.common import ndarray_to_bytes
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from rich.console import Console
from rich.table import Table

REPEATS = 3
FEW = 3
"""Members for which Flower's server is measured."""
CLIPPING, TARGET, MODULUS = 8.0, 4194304, 4294967296
"""Flower's defaults."""
Figures = dict[str, float]
Times = npt.NDArray[np.float64]
"""(seconds, CPU seconds)"""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is masked."""

    parameters: int
    members: tuple[int, ...]


FULL = Size(parameters=4_400_000, members=(16, 64))
QUICK = Size(parameters=200_000, members=(6,))


def now() -> Times:
    """The clock on the wall, and this process's CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> Times:
    """Seconds and CPU seconds, medians of a few repetitions."""
    found: list[Times] = []
    for _ in range(repeats):
        start = now()
        work()
        found.append(now() - start)
    return np.median(found, axis=0)


class OurFederation:
    """All five steps among small vectors, but for the first member's, which is as long as an update."""

    def __init__(self, members: int, folder: Path) -> None:
        self.names = [f"org-{number:02d}" for number in range(members)]
        self.first = self.names[0]
        identities = {name: Identity.generate() for name in self.names}
        listed = tuple(Member(name, identities[name].public) for name in self.names)
        self.manifest = Manifest(federation="benchmark", server_key=Identity.generate().public, members=listed)
        config = RunConfig().with_values({"privacy.mode": "secagg"})
        self.grid: Grid = grid_of(config, members)
        self.seconds: dict[str, Times] = {}
        self.maskers = {
            name: Masker(
                name=name,
                identity=identities[name],
                manifest=self.manifest,
                sessions=Sessions(folder / str(members) / name),
                ledger=Ledger(None, Policy()),
                min_members=3,
            )
            for name in self.names
        }

    def context(self, number: int) -> Context:
        return Context(
            kind="train",
            federation="benchmark",
            round=number,
            attempt=1,
            adapter="a" * 64,
            config="c" * 64,
            app="benchmark",
            manifest=self.manifest.sha256,
            numbers=("weight",),
        )

    def _timed(self, step: str, name: str, call: Callable[[], Result]) -> Result:
        start = now()
        result = call()
        if name == self.first:
            self.seconds[step] = now() - start
        return result

    def _asked(self, step: str, session: str, items: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        return {
            name: self._timed(
                step,
                name,
                lambda name=name, own=own: (
                    self.maskers[name].step(SecaggRequest(step=step, session=session, items=own)).items
                ),
            )
            for name, own in items.items()
        }

    def play(self, update: np.ndarray, number: int, lost: int) -> tuple[Times, Callable[[], None], int]:
        """Return (seconds of the first member's masking, the server's unmasking as a call, bytes of an upload)."""
        context, generator = self.context(number), np.random.default_rng(0)
        small = np.zeros(8, np.uint32)
        start = now()
        vector = self.grid.words(self.grid.coded(update, generator)[0])
        coding = now() - start
        bundles = {
            name: self._timed(
                "begin",
                name,
                lambda name=name: self.maskers[name].begin(context, vector if name == self.first else small),
            )
            for name in self.names
        }
        session = context.sha256
        boxes = self._asked("share", session, dict.fromkeys(self.names, bundles))
        survivors = self.names[: len(self.names) - lost]
        masked = self._mask(session, boxes, survivors)
        signatures = self._asked("agree", session, dict.fromkeys(survivors, dict.fromkeys(survivors, "")))
        signed = {name: items[name] for name, items in signatures.items()}
        shares = self._asked("open", session, dict.fromkeys(survivors, signed))
        roster = Roster(bundles=bundles, masked=self.names, survivors=survivors, threshold=self.manifest.threshold)
        check, total = np.zeros(8, np.uint32), np.zeros(update.size, np.uint32)
        for name in survivors:
            check += masked[name][:8]
        remove_masks(check, roster, shares, self.manifest.cipher)
        assert np.array_equal(check, vector[:8]), "the sum is not exact"

        def unmask() -> None:
            remove_masks(total, roster, shares, self.manifest.cipher)

        return coding + self.seconds["mask"], unmask, masked[self.first].nbytes

    def _mask(
        self, session: str, boxes: Mapping[str, Mapping[str, str]], survivors: list[str]
    ) -> dict[str, np.ndarray]:
        masked = {}
        for name in survivors:
            items = {other: boxes[other][name] for other in self.names if other != name}
            request = SecaggRequest(step="mask", session=session, items=items)
            masked[name] = self._timed(
                "mask", name, lambda name=name, request=request: self.maskers[name].step(request).words
            )
        return masked


def ours(members: int, update: np.ndarray, folder: Path) -> tuple[dict[str, Times], float, Figures]:
    """Return (what is compared, bytes of an upload, what is only listed)."""
    federation = OurFederation(members, folder)
    plays = [federation.play(update, number, lost=0) for number in range(1, REPEATS + 2)][1:]  # the first warms up
    whole = seconds(plays[-1][1])
    lost = members - federation.manifest.threshold
    with_losses = seconds(federation.play(update, REPEATS + 2, lost)[1])
    # a member that is lost costs a mask per survivor, and saves its own mask
    figures = {
        "client_mask": np.median([play[0] for play in plays], axis=0),
        "server_unmask": whole,
        "per_dropped": (with_losses - whole) / lost + whole / members,
    }
    listed = {f"client_{step}_s": federation.seconds[step][0] for step in ("begin", "share", "agree", "open")}
    return figures, float(plays[0][2]), listed


class FlowerFederation:
    """Flower's primitives for the same."""

    def __init__(self, members: int, parameters: int) -> None:
        self.members, self.shape = members, [(parameters,)]
        self.threshold = 2 * members // 3 + 1
        pairs = [generate_key_pairs() for _ in range(members)]
        self.private = [private_key_to_bytes(private) for private, _ in pairs]
        self.public = [public_key_to_bytes(public) for _, public in pairs]

    def _mask_of(self, one: int, other: int) -> list[np.ndarray]:
        key = generate_shared_key(bytes_to_private_key(self.private[one]), bytes_to_public_key(self.public[other]))
        return pseudo_rand_gen(key, MODULUS, self.shape)

    def mask(self, update: np.ndarray) -> list[np.ndarray]:
        """As `secaggplus_mod._collect_masked_vectors` does, for the first member."""
        vector = quantize([update], CLIPPING, TARGET)
        vector = parameters_addition(vector, pseudo_rand_gen(os.urandom(32), MODULUS, self.shape))
        for other in range(1, self.members):
            vector = parameters_subtraction(vector, self._mask_of(0, other))
        return parameters_mod(vector, MODULUS)

    def unmask(self, total: list[np.ndarray]) -> Times:
        """Seconds of removing all members' own masks: of a few, multiplied."""
        secret = os.urandom(32)
        shares = create_shares(secret, self.threshold, self.members)

        def one() -> None:
            assert combine_shares(shares) == secret
            parameters_subtraction(total, pseudo_rand_gen(secret, MODULUS, self.shape))

        return self.members * seconds(one, FEW) + seconds(lambda: parameters_mod(total, MODULUS))

    def drop(self, total: list[np.ndarray]) -> Times:
        """Seconds of removing the masks with a member that is lost: of a few, multiplied."""
        shares = create_shares(self.private[0], self.threshold, self.members)
        joining = seconds(lambda: combine_shares(shares), FEW)
        return joining + (self.members - 1) * seconds(lambda: parameters_addition(total, self._mask_of(0, 1)), FEW)


def flowers(members: int, update: np.ndarray) -> tuple[dict[str, Times], float]:
    federation, total = FlowerFederation(members, update.size), [np.zeros(update.size, np.int64)]
    masked: list[np.ndarray] = []
    figures = {
        "client_mask": seconds(lambda: masked.extend(federation.mask(update)), 1 if members > 16 else REPEATS),
        "server_unmask": federation.unmask(total),
        "per_dropped": federation.drop(total),
    }
    return figures, float(len(ndarray_to_bytes(masked[0])))


def compare(size: Size, table: Table) -> tuple[Figures, Figures]:
    ratios, figures = Figures(), Figures()
    update = np.random.default_rng(0).normal(size=size.parameters) * 1e-3
    for members in size.members:
        with tempfile.TemporaryDirectory() as name:
            mine, bytes_up, listed = ours(members, update, Path(name))
        theirs, their_bytes = flowers(members, update)
        for what, own in mine.items():
            for clock, unit in enumerate(("s", "cpu_s")):
                one, other = max(own[clock], 1e-9), theirs[what][clock]
                key = f"{what}_{members}" if unit == "s" else f"{what}_cpu_{members}"
                ratios[key] = other / one
                figures[f"{what}_{unit}_{members}"] = round(one, 4)
                figures[f"flower_{what}_{unit}_{members}"] = round(other, 4)
                label = f"{what.replace('_', ' ')}, {'CPU s' if clock else 's'}, {members} members"
                table.add_row(label, f"{one:.3f}", f"{other:.3f}", f"{other / one:.1f}")
        ratios[f"bytes_up_{members}"] = their_bytes / bytes_up
        table.add_row(
            f"upload, MB, {members} members",
            f"{bytes_up / 1e6:.1f}",
            f"{their_bytes / 1e6:.1f}",
            f"{their_bytes / bytes_up:.1f}",
        )
        figures.update({f"{what}_{members}": round(value, 4) for what, value in listed.items()})
    return ratios, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs")
    size = QUICK if parser.parse_args().quick else FULL
    table = Table(f"{size.parameters / 1e6:.1f} M parameters", "ours", "Flower's", "ratio", box=None)
    ratios, figures = compare(size, table)
    Console(width=110).print(table)
    print(json.dumps({"name": "secagg", "ratios": {k: round(v, 3) for k, v in ratios.items()}, "figures": figures}))


if __name__ == "__main__":
    main()
