"""SHA-256 of the adapters that the shipped scenarios end with, to show that a refactoring changed no number.

    python benchmarks/golden.py > before.json        # before the change
    python benchmarks/golden.py --compare before.json

On one machine a run is reproducible bit for bit; another processor may round differently, so no hash is committed.
Recipes run with a tiny random Qwen2 in place of their model. `--quick` runs the built-in scenarios only (a minute).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
RECIPES = ("qwen0.5b-think", "qwen3b-unsloth", "qwen0.5b-five-rewards", "qwen14b-weighted", "qwen0.5b-verl")
SHORT = ("--set", "evaluation.problems=40")
COMPRESSED = ("--set", "compression.up=int8", "--set", "compression.down=int8")
POISONED = (
    "--set=simulation.faults=4=sign-flip;5=scale",
    "--set=aggregation.rule=trimmed-mean",
    "--set=aggregation.hostile=1",
    "--set=gate.enabled=true",
    "--set=aggregation.server-optimizer=momentum",
    "--set=compression.up=top-k",
)
BUILT_IN: dict[str, tuple[str, ...]] = {
    "builtin": ("builtin", "--rounds", "3", *SHORT),
    "split-svd-int8": ("split", "--rounds", "2", *SHORT, "--set", "aggregation.method=svd", *COMPRESSED),
    "poisoned": ("builtin", "--rounds", "2", "--clients", "6", *SHORT, *POISONED),
}
MORE: dict[str, tuple[str, ...]] = {
    "ranks-fedex": (
        *("builtin", "--rounds", "2", "--clients", "3", *SHORT, "--set=aggregation.method=fedex"),
        *("--set=simulation.ranks=4;8;16", "--set=aggregation.weights=relative-gain"),
    ),
    "rolora-int4": (
        *("builtin", "--rounds", "2", "--clients", "4", *SHORT, "--set=aggregation.method=rolora"),
        *("--set=aggregation.rule=multi-krum", "--set=compression.up=int4"),
    ),
}
SMALL = {
    "model.dtype": "float32",
    "backend.sampler": "transformers",
    "backend.loader": "transformers",
    "backend.quantization": "none",
    "grpo.optim": "adamw_torch",
    "grpo.warmup-ratio": 0.0,
    "grpo.gradient-accumulation-steps": 1,
    "grpo.max-completion-length": 6,
    "grpo.max-prompt-length": 1024,
    "adapter.rank": 4,
    "federation.rounds": 2,
    "train.steps-per-round": 1,
    "evaluation.problems": 4,
    "evaluation.every": 0,
    "simulation.clients": 2,
}
DIGITS = """
def digits(completions, **columns):
    texts = [c[0]["content"] for c in completions]
    return [sum(x.isdigit() for x in text) / max(1, len(text)) for text in texts]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the built-in scenarios only")
    parser.add_argument("--compare", type=Path, help="the output of an earlier run; exit status 1 where a hash differs")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        place = Path(folder)
        scenarios = dict(BUILT_IN) if options.quick else {**BUILT_IN, **MORE, **recipes(place)}
        hashes = {name: adapter_of(name, arguments, place) for name, arguments in scenarios.items()}
    print(json.dumps({"name": "golden", "ratios": {}, "figures": hashes}))
    if options.compare:
        before = json.loads(options.compare.read_text().splitlines()[-1])["figures"]
        different = sorted(name for name in hashes if before.get(name) != hashes[name])
        print(f"different: {', '.join(different) or 'none'}", file=sys.stderr)
        sys.exit(1 if different else 0)


def adapter_of(name: str, arguments: tuple[str, ...], place: Path) -> str:
    command = [sys.executable, "-m", "fedgrpo", "simulate", *arguments, "--out", str(place / "runs"), "--run", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, check=False, env=environment, cwd=place
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    digest = json.loads(done.stdout.splitlines()[-1])["adapter_sha256"]
    print(f"{name:24} {digest}", file=sys.stderr, flush=True)
    return digest


def recipes(place: Path) -> dict[str, tuple[str, ...]]:
    """Return the published recipes, shrunk to a tiny model, a few problems and a reward that varies."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import tiny_qwen

    tiny_qwen.make(place / "model")
    draw = random.Random(0)
    for split, count in (("train", 16), ("test", 4)):
        (place / f"{split}.jsonl").write_text("\n".join(problem(draw) for _ in range(count)))
    (place / "digits.py").write_text(DIGITS)
    small = tuple(f"--set={key}={value}" for key, value in SMALL.items())
    common = ("--data", str(place), "--model", str(place / "model"), "--rewards", str(place / "digits.py"), *small)
    return {name: (name, *common) for name in RECIPES}


def problem(draw: random.Random) -> str:
    one, other = draw.randint(2, 40), draw.randint(2, 40)
    working = f"In all she has {one}+{other}=<<{one}+{other}={one + other}>>{one + other}.\n#### {one + other}"
    return json.dumps({"question": f"Ann has {one} eggs and buys {other}. How many?", "answer": working})


if __name__ == "__main__":
    main()
