"""Measure this project beside its peers, on the same data, in turn, and print one table.

    python benchmarks/bench.py [--quick]

Works on data/tensors as `dvc repro` leaves them. Writes benchmarks/results.json: the machine and
every figure. Ratios are medians of ratios pair by pair; peers that are not installed are left out
(`make bench` installs them).
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
PEERS = {"public": "torchvision", "sklearn": "sklearn", "keras": "keras", "lightning": "lightning"}
TARGETS = {"97_5": 0.975, "98_0": 0.98}
PEER_EPOCHS = 15

Figures = dict[str, float | None]


def worker(script: str, *arguments: str) -> list[Any]:
    """Run a benchmark script; return what it printed, one JSON value per line."""
    command = [sys.executable, f"benchmarks/{script}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios pair by pair."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def measure_epochs(pairs: int) -> Figures:
    """Measure single epochs: numerics, augmentation, checkpoints, the floor."""
    plain = {"batch_size": 512, "augmented": False}
    augmented = {"augmented": True}
    saving = {"augmented": True, "checkpoint_every": 1}
    rounds: dict[str, dict[str, list[float]]] = {}
    for kernels, threads in (("fast", 2), ("portable", 1)):
        asked = {
            "numerics": kernels,
            "threads": threads,
            "pairs": pairs,
            "settings": {"plain": plain, "augmented": augmented, "checkpointed": saving},
        }
        (rounds[kernels],) = worker("epochs", json.dumps(asked))
    fast, portable = rounds["fast"], rounds["portable"]
    figures: Figures = {
        "epoch.portable_over_fast": median_ratio(portable["augmented"], fast["augmented"]),
        "epoch.fast_over_matmul_floor": median_ratio(fast["plain"], fast["matmul_floor"]),
        "epoch.augmentation_over_optimisation": median_ratio(
            [a - p for a, p in zip(portable["augmented"], portable["plain"], strict=True)],
            portable["plain"],
        ),
        "epoch.checkpointed_over_not": median_ratio(
            portable["checkpointed"], portable["augmented"]
        ),
    }
    for kernels, seconds in rounds.items():
        for name, values in seconds.items():
            figures[f"epoch.{kernels}.{name}_seconds"] = statistics.median(values)
    return figures


def measure_time_to_accuracy(seeds: int) -> Figures:
    """Measure the mean training time to a test accuracy, every learner in turn, seed by seed."""
    learners = ["fast", "portable"]
    learners += [name for name, module in PEERS.items() if importlib.util.find_spec(module)]
    runs: dict[str, list[list[dict[str, float]]]] = {name: [] for name in learners}
    for seed in tqdm(range(seeds), desc="time to accuracy", unit="seed"):
        for name in learners:
            options = ("--seed", str(seed), "--epochs", str(PEER_EPOCHS))
            runs[name].append(worker("learners", name, *options, "--until", "0.98"))
    figures: Figures = {}
    for label, target in TARGETS.items():
        means: dict[str, float | None] = {}
        for name in learners:
            times = [
                next((line["seconds"] for line in run if line["accuracy"] >= target), None)
                for run in runs[name]
            ]
            reached = [seconds for seconds in times if seconds is not None]
            means[name] = statistics.mean(reached) if len(reached) == len(times) else None
            figures[f"time_to_{label}.{name}_seconds"] = means[name]
            figures[f"time_to_{label}.{name}_reached"] = len(reached) / len(times)
        ours = means["fast"]
        for name in learners[2:]:
            peer = means[name]
            ratio = peer / ours if peer and ours else None
            figures[f"time_to_{label}.{name}_over_fast"] = ratio
    for name in learners:
        epoch = [run[0]["seconds"] for run in runs[name]]
        figures[f"first_epoch.{name}_seconds"] = statistics.median(epoch)
    return figures


def measure_repro(pairs: int) -> Figures:
    """Measure `dvc repro`: from an empty cache, and with nothing to do beside an empty project."""
    mirror = ROOT.parent / "shared" / "data" / "mnist"
    environment = os.environ | {"DATASET_MIRROR": str(mirror)} if mirror.is_dir() else os.environ
    with tempfile.TemporaryDirectory() as folder:
        clone, empty = Path(folder) / "clone", Path(folder) / "empty"
        run = subprocess.run
        run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = dict(environment) | {"PYTHONPATH": str(clone / "src")}
        start = time.perf_counter()
        done = run(
            ["dvc", "repro"], cwd=clone, env=environment, check=True, capture_output=True, text=True
        )
        total = time.perf_counter() - start
        line = next(line for line in done.stdout.splitlines() if line.startswith("train: "))
        training = float(line.split(" epochs in ")[1].split(" s")[0])

        empty.mkdir()
        run(["git", "init", "--quiet"], cwd=empty, check=True)
        run(["dvc", "init", "--quiet"], cwd=empty, check=True)
        shutil.copy(ROOT / ".dvc" / "config", empty / ".dvc" / "config")
        stages = [f"  s{i}:\n    cmd: echo {i} > {i}\n    outs: ['{i}']\n" for i in range(5)]
        (empty / "dvc.yaml").write_text("stages:\n" + "".join(stages))
        seconds: dict[Path, list[float]] = {clone: [], empty: []}
        run(["dvc", "repro", "--quiet"], cwd=empty, check=True)
        for _ in range(pairs + 1):
            for project, values in seconds.items():
                start = time.perf_counter()
                run(["dvc", "repro", "--quiet"], cwd=project, env=environment, check=True)
                values.append(time.perf_counter() - start)
        noop = median_ratio(seconds[clone][1:], seconds[empty][1:])
    return {
        "repro.seconds": total,
        "repro.training_seconds": training,
        "repro.seconds_less_training": total - training,
        "noop_repro.seconds": statistics.median(seconds[clone][1:]),
        "noop_repro.over_empty_project": noop,
    }


def machine() -> dict[str, Any]:
    """Describe what was measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = dict(
            line.split(":", 1) for line in info.read_text().splitlines() if line.count(":") == 1
        )
        names = {key.strip(): value.strip() for key, value in lines.items()}
        cpu = names.get("model name", cpu)
    versions = {name: importlib.import_module(name).__version__ for name in ("torch", "numpy")}
    return {
        "processor": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    } | versions


def main() -> None:
    """Measure everything, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--quick", action="store_true", help="few repeats, and no peers but one run"
    )
    arguments = parser.parse_args()
    pairs, seeds = (3, 1) if arguments.quick else (7, 10)
    figures: Figures = {}
    figures |= measure_epochs(pairs)
    figures |= measure_repro(pairs)
    figures |= measure_time_to_accuracy(seeds)
    results = {
        "machine": machine(),
        "figures": {name: value and round(value, 4) for name, value in sorted(figures.items())},
    }
    if not arguments.quick:
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    width = max(map(len, figures))
    print(f"{'figure':{width}}  value", *(
        f"{name:{width}}  {'not reached' if value is None else f'{value:.3f}'}"
        for name, value in sorted(figures.items())
    ), sep="\n")  # fmt: skip
    where = "not written (quick)" if arguments.quick else f"in {RESULTS.relative_to(ROOT)}"
    print(f"bench: {len(figures)} figures on {results['machine']}; {where}")


if __name__ == "__main__":
    main()
