"""Benchmark this project and its peers on the same data, interleaved, and print one table.

    python benchmarks/bench.py [--quick] [PART ...]

Uses data/tensors as `dvc repro` leaves them. Writes benchmarks/results.json, part by part, and the
README's table. All parts together begin a new sitting; some of them are saved only where
results.json is of the same commit and machine, so that a sitting can be gone on with. Before each
part an epoch of the public recipe is timed. A ratio is the median of pairwise ratios.

Peers that are not installed are skipped (`make bench` installs them). Environment: PHOTOGRAPHS and
CIFAR10_IMAGES are folders of photographs, each with train/ and test/ with class folders;
DATASET_MIRROR is a folder of original files, the weights' too. The parts `photographs`, `cifar10`
and `transfer` are skipped without them.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from decode import write_images
from processes import (
    Measured,
    clone_project,
    measure,
    seconds_of_public_epoch,
    set_params,
    use_photographs,
    use_recipe,
    worker,
)
from report import RESULTS, ROOT, Figures, publish, why_not_kept
from safetensors.numpy import load_file
from tqdm import tqdm

from image_pipeline.common import paths

PEER_MODULES = {
    "public": "torchvision",
    "sklearn": "sklearn",
    "keras": "keras",
    "lightning": "lightning",
}
TARGETS = {"97_5": 0.975, "98_0": 0.98}
PEER_EPOCHS = 15
PEER_SEEDS = 3
STAGES = ("download", "tensorize", "weights", "train", "evaluate", "plot", "export")
BEST_SEEDS = 3
SPLITS = (paths.TRAIN_TENSORS, paths.VALIDATION_TENSORS, paths.TEST_TENSORS)
TIMED_IMAGES = 4_608  # enough to measure images per second
TUTORIAL_EPOCHS = 25


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the pairwise ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def measure_epochs(pairs: int) -> Figures:
    """Measure single epochs: numerics, augmentation, checkpoints, and the matmul floor."""
    plain = {"batch_size": 512, "augmented": False}
    augmented = {"augmented": True}
    saving = {"augmented": True, "checkpoint_every": 1}
    plotting = {"augmented": True, "plotted": True}
    rounds: dict[str, dict[str, list[float]]] = {}
    for kernels in ("fast", "portable"):
        request = {
            "numerics": kernels,
            "pairs": pairs,
            "settings": {
                "plain": plain,
                "augmented": augmented,
                "checkpointed": saving,
                "plotted": plotting,
            },
        }
        (rounds[kernels],) = worker("epochs", json.dumps(request))
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
        "epoch.plotted_over_not": median_ratio(portable["plotted"], portable["augmented"]),
        "epoch.progress_bar_share": median_ratio(portable["progress_bar"], portable["augmented"]),
    }
    for kernels, seconds in rounds.items():
        for name, values in seconds.items():
            figures[f"epoch.{kernels}.{name}_seconds"] = statistics.median(values)
    return figures


def measure_time_to_accuracy(seeds: int, peers: list[str]) -> Figures:
    """Measure the training time to a test accuracy, all learners interleaved, seed by seed.

    This project has a recipe for each target, fixed beforehand on the validation split; a peer has
    one, and runs until it reaches the higher target or its last epoch, with fewer seeds.

    The figure is the expected running time: the total time of all seeds, each until it reached the
    target or its last epoch, divided by the number of seeds that reached it (the mean, if all did).
    Source: Hansen et al., "COCO: a platform for comparing continuous optimizers in a black-box
    setting" (2021).
    """
    own = [f"{kernels}_{label}" for label in TARGETS for kernels in ("fast", "portable")]
    runs: dict[str, list[list[dict[str, float]]]] = {name: [] for name in own + peers}
    for seed in tqdm(range(seeds), desc="time to accuracy", unit="seed"):
        for name in own + peers * (seed < PEER_SEEDS):
            options = ("--seed", str(seed), "--epochs", str(PEER_EPOCHS), "--until", "0.98")
            runs[name].append(worker("learners", name, *options))
    figures: Figures = {}
    for label, target in TARGETS.items():
        for name in ("fast", "portable", *peers):
            trained = runs.get(f"{name}_{label}") or runs[name]
            reached = sum(any(line["accuracy"] >= target for line in run) for run in trained)
            spent = sum(
                next((line for line in run if line["accuracy"] >= target), run[-1])["seconds"]
                for run in trained
            )
            figures[f"time_to_{label}.{name}_seconds"] = spent / reached if reached else None
            figures[f"time_to_{label}.{name}_reached"] = reached / len(trained)
        ours = figures[f"time_to_{label}.fast_seconds"]
        for name in peers:
            peer = figures[f"time_to_{label}.{name}_seconds"]
            figures[f"time_to_{label}.{name}_over_fast"] = peer / ours if peer and ours else None
    for name in runs:
        first = statistics.median(run[0]["seconds"] for run in runs[name])
        figures[f"first_epoch.{name}_seconds"] = first
        last = statistics.median(run[-1]["seconds"] for run in runs[name])
        figures[f"run.{name}_seconds"] = last
        best = statistics.mean(max(line["accuracy"] for line in run) for run in runs[name])
        figures[f"run.{name}_best_accuracy"] = best
    return figures


def measure_repro(pairs: int) -> Figures:
    """Measure `dvc repro` from an empty cache, and a no-op against that of an empty project."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        clone, empty = Path(folder) / "clone", Path(folder) / "empty"
        clone_project(clone)
        whole: list[tuple[float, float]] = []
        for _ in range(pairs):
            remove_outputs(clone)
            done = measure(["dvc", "repro"], clone, mirror())
            line = next(line for line in done.output.splitlines() if " epochs in " in line)
            whole.append((done.seconds, float(line.split(" epochs in ")[1].split(" s")[0])))
        figures["repro.seconds"] = statistics.median(total for total, _ in whole)
        figures["repro.training_seconds"] = statistics.median(training for _, training in whole)
        figures["repro.seconds_less_training"] = statistics.median(
            total - training for total, training in whole
        )
        metrics = json.loads((clone / "metrics" / "test.json").read_text())
        figures["accuracy.default"] = metrics["accuracy"]

        make_empty_project(empty)
        seconds: dict[Path, list[float]] = {clone: [], empty: []}
        for _ in range(max(5, pairs)):
            for project, values in seconds.items():
                values.append(measure(["dvc", "repro", "--quiet"], project, mirror()).seconds)
        figures["noop_repro.seconds"] = statistics.median(seconds[clone])
        figures["noop_repro.over_empty_project"] = median_ratio(seconds[clone], seconds[empty])
        figures |= measure_stages(clone, pairs)
    return figures


def mirror() -> dict[str, str]:
    """Return an environment with the mirror of MNIST's files, if they are beside the project."""
    folder = ROOT.parent / "shared" / "data" / "mnist"
    return {"DATASET_MIRROR": str(folder)} if folder.is_dir() else {}


def make_empty_project(folder: Path) -> None:
    """Create a DVC project of five stages that do nothing, and run it once."""
    folder.mkdir()
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=folder, check=True)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    stages = [f"  s{i}:\n    cmd: echo {i} > {i}\n    outs: ['{i}']\n" for i in range(5)]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    subprocess.run(["dvc", "repro", "--quiet"], cwd=folder, check=True)


def measure_stages(project: Path, repeats: int) -> Figures:
    """Measure each stage alone: seconds and peak memory on MNIST, and its fixed cost.

    The fixed cost, mostly start-up and imports, is its time on 1,797 digits and one epoch.
    """
    figures: Figures = {}
    for kind, changes in (("", {}), ("fixed_", {"dataset": "digits", "epochs": 1})):
        set_params(project, **changes)
        runs: dict[str, list[Measured]] = {stage: [] for stage in STAGES}
        for _ in range(repeats):
            for stage in STAGES:
                command = [sys.executable, f"stages/{stage}.py"]
                runs[stage].append(measure(command, project, mirror()))
        for stage, measured in runs.items():
            seconds = statistics.median(run.seconds for run in measured)
            figures[f"stage.{stage}.{kind}seconds"] = seconds
            if not kind:
                peak = statistics.median(run.peak_mb for run in measured)
                figures[f"stage.{stage}.peak_mb"] = peak
    return figures


def measure_best(seeds: int) -> Figures:
    """Train the best recipe of the MLP with several seeds; evaluate it on the test split."""
    runs = [
        worker("learners", "best", "--seed", str(seed))[-1]
        for seed in tqdm(range(seeds), desc="best recipe", unit="seed")
    ]
    return {
        "accuracy.best_mean": statistics.mean(run["accuracy"] for run in runs),
        "accuracy.best_lowest": min(run["accuracy"] for run in runs),
        "accuracy.best_training_seconds": statistics.median(run["seconds"] for run in runs),
    }


def measure_decode(count: int, pairs: int) -> Figures:
    """Measure `tensorize` of a folder of PNG files of MNIST against a bare loop of the decoder.

    Whole commands, interleaved; a tenth of the files shows whether memory grows with their number.
    """
    tensors = load_file(ROOT / "data" / "tensors" / "train.safetensors")
    images, labels = tensors["images"][:, 0], tensors["labels"]
    rates: dict[str, list[float]] = {"tensorize": [], "bare_loop": []}
    figures: Figures = {}
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        clone_project(clone)
        set_params(clone, dataset="folder")
        use_photographs(clone, str(clone / "images"), image_size=28, channels=1)
        for number in (count // 10, count):
            write_images(clone / "images", images, labels, number)
            measure([sys.executable, "stages/download.py"], clone)
            tensorized = measure([sys.executable, "stages/tensorize.py"], clone)
            figures[f"decode.peak_mb_{number}"] = tensorized.peak_mb
            peaks.append(tensorized.peak_mb)
        for _ in tqdm(range(pairs), desc="decode", unit="pair"):
            for name, command in (
                ("tensorize", ["stages/tensorize.py"]),
                ("bare_loop", ["benchmarks/decode.py", "images"]),
            ):
                seconds = measure([sys.executable, *command], clone).seconds
                rates[name].append(count / seconds)
    figures["decode.over_bare_loop"] = median_ratio(rates["tensorize"], rates["bare_loop"])
    figures["decode.peak_memory_10x_over_1x"] = peaks[1] / peaks[0]
    for name, values in rates.items():
        figures[f"decode.{name}_images_per_second"] = statistics.median(values)
    return figures


def measure_predict(count: int, pairs: int) -> Figures:
    """Measure `predict` of PNG files of MNIST against a bare loop of the decoder.

    Whole commands, interleaved, start-up included; a tenth of the files gives the cost without
    start-up, and shows whether memory grows with their number.
    """
    # All of MNIST, each image once: a shifted one would be treated as a photograph.
    splits = [load_file(ROOT / path) for path in SPLITS]
    images = np.concatenate([split["images"][:, 0] for split in splits])
    labels = np.concatenate([split["labels"] for split in splits])
    seconds: dict[str, list[float]] = {"all": [], "few": [], "bare_loop": []}
    peaks: dict[str, list[float]] = {"all": [], "few": []}
    with tempfile.TemporaryDirectory() as folder:
        for name, number in (("all", count), ("few", count // 10)):
            write_images(Path(folder) / name, images, labels, number)
        shell = "exec python -m image_pipeline predict --csv {} > {}/predicted.csv"
        for _ in tqdm(range(pairs), desc="predict", unit="round"):
            for name in ("all", "few"):
                command = ["sh", "-c", shell.format(f"{folder}/{name}", folder)]
                measured = measure(command, ROOT)
                seconds[name].append(measured.seconds)
                peaks[name].append(measured.peak_mb)
            command = [sys.executable, "benchmarks/decode.py", f"{folder}/all"]
            seconds["bare_loop"].append(measure(command, ROOT).seconds)
    rest = [whole - few for whole, few in zip(seconds["all"], seconds["few"], strict=True)]
    return {
        "predict.images_per_second": statistics.median(count / s for s in seconds["all"]),
        "predict.images_per_second_without_startup": statistics.median(
            (count - count // 10) / s for s in rest
        ),
        f"predict.seconds_for_{count // 10}": statistics.median(seconds["few"]),
        "predict.over_bare_loop": median_ratio(seconds["all"], seconds["bare_loop"]),
        "predict.peak_mb": statistics.median(peaks["all"]),
        "predict.peak_memory_10x_over_1x": median_ratio(peaks["all"], peaks["few"]),
    }


def measure_cnn(quick_seeds: int, best_seeds: int) -> Figures:
    """Train the convolutional network by its two recipes; evaluate each run on the test split.

    Seconds are those of the slowest run, as the time limit holds for every run.
    """
    learners = {"quick": quick_seeds, "quick_fast": quick_seeds, "best": best_seeds}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in learners}
    for seed in tqdm(range(max(learners.values())), desc="cnn", unit="seed"):
        for name, seeds in learners.items():
            if seed < seeds:
                runs[name].append(worker("learners", f"cnn_{name}", "--seed", str(seed))[-1])
    figures: Figures = {}
    for name, of_name in runs.items():
        figures[f"cnn.{name}_seconds"] = max(run["seconds"] for run in of_name)
        figures[f"cnn.{name}_accuracy"] = statistics.mean(run["accuracy"] for run in of_name)
    seconds = {name: [run["seconds"] for run in of_name] for name, of_name in runs.items()}
    figures["cnn.portable_over_fast"] = median_ratio(seconds["quick"], seconds["quick_fast"])
    return figures


def measure_photographs(repeats: int, *, whole: bool) -> Figures:
    """Measure the residual network's speed on CIFAR-10 against a plain loop, or train it whole.

    The photographs are in the folder CIFAR10_IMAGES (train/ and test/ with class folders), or in
    cifar-10-binary.tar.gz in the folder DATASET_MIRROR.
    """
    folder, mirror_folder = (os.environ.get(name) for name in ("CIFAR10_IMAGES", "DATASET_MIRROR"))
    archive = Path(mirror_folder or "") / "cifar-10-binary.tar.gz"
    if not folder and not archive.is_file():
        print(
            "bench: photographs skipped: set CIFAR10_IMAGES or DATASET_MIRROR to a folder with them"
        )
        return {}
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "clone"
        clone_project(clone)
        set_params(clone, dataset="folder" if folder else "cifar10")
        if folder:
            use_photographs(clone, folder, 32)
        for stage in ("download", "tensorize", "weights"):
            measure([sys.executable, f"stages/{stage}.py"], clone)
        tensors = str(clone / "data" / "tensors")
        if whole:
            run = worker("learners", "resnet_portable", TENSORS=tensors)
            return {"cifar10.accuracy": run[-1]["accuracy"], "cifar10.seconds": run[-1]["seconds"]}
        names = ("fast", "portable", "plain", "plain_with_workers")
        rates: dict[str, list[float]] = {name: [] for name in names}
        for _ in tqdm(range(repeats), desc="photographs", unit="round"):
            for name, values in rates.items():
                learner, _, workers = name.partition("_with_")
                few = {"TENSORS": tensors, "IMAGES": str(TIMED_IMAGES)}
                run = worker(
                    "learners", f"resnet_{learner}", "--epochs", "2", **few,
                    LOADER_WORKERS="2" if workers else "0",
                )  # fmt: skip
                values.append(TIMED_IMAGES / (run[1]["seconds"] - run[0]["seconds"]))
        best = max(("plain", "plain_with_workers"), key=lambda name: statistics.median(rates[name]))
        for name in ("fast", "portable"):
            figures[f"cifar10.{name}_over_plain_loop"] = median_ratio(rates[name], rates[best])
        for name, values in rates.items():
            figures[f"cifar10.{name}_images_per_second"] = statistics.median(values)
        figures["cifar10.portable_over_fast"] = median_ratio(rates["fast"], rates["portable"])
    return figures


def measure_transfer(repeats: int) -> Figures:
    """Measure the recipe `photographs` against a plain loop with the same pretrained network.

    Ours is `dvc repro` from an empty cache to the metrics of the test split; the plain loop follows
    the public tutorial. Whole commands, interleaved, start-up included, one seed a round; the
    weights are fetched beforehand. Photographs are in the folder PHOTOGRAPHS, train/ and test/ with
    class folders. If CIFAR10_IMAGES is such a folder, the recipe runs on it once, at 96 pixels.
    """
    photographs, cifar10 = (os.environ.get(name) for name in ("PHOTOGRAPHS", "CIFAR10_IMAGES"))
    if not photographs and not cifar10:
        print("bench: transfer skipped: set PHOTOGRAPHS or CIFAR10_IMAGES to a folder with them")
        return {}
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "clone"
        clone_project(clone)
        use_recipe(clone, "photographs")
        measure([sys.executable, "stages/weights.py"], clone)
        (fetched,) = (clone / "data" / "weights").glob("*.pth")
        weights = fetched.rename(Path(temporary) / fetched.name)

        def repro(images: str, image_size: int, seed: int) -> tuple[float, float]:
            use_photographs(clone, images, image_size)
            set_params(clone, seed=seed)
            remove_outputs(clone)
            done = measure(["dvc", "repro", "evaluate"], clone, {"DATASET_MIRROR": temporary})
            metrics = json.loads((clone / "metrics" / "test.json").read_text())
            return done.seconds, metrics["accuracy"]

        def plain(images: str, workers: int, seed: int) -> tuple[float, float]:
            options = ("--seed", str(seed), "--epochs", str(TUTORIAL_EPOCHS))
            command = [sys.executable, "benchmarks/learners.py", "transfer_plain", *options]
            environment = {"PHOTOGRAPHS": images, "WEIGHTS": str(weights)}
            done = measure(command, ROOT, environment | {"LOADER_WORKERS": str(workers)})
            return done.seconds, json.loads(done.output)["accuracy"]

        if photographs:
            runs: dict[str, list[tuple[float, float]]] = {
                name: [] for name in ("ours", "plain", "plain_with_workers")
            }
            for seed in tqdm(range(repeats), desc="transfer", unit="seed"):
                runs["ours"].append(repro(photographs, 224, seed))
                runs["plain"].append(plain(photographs, 0, seed))
                runs["plain_with_workers"].append(plain(photographs, 2, seed))
            seconds = {name: [run[0] for run in of_name] for name, of_name in runs.items()}
            for name, of_name in runs.items():
                figures[f"transfer.{name}_seconds"] = statistics.median(seconds[name])
                figures[f"transfer.{name}_accuracy"] = statistics.mean(run[1] for run in of_name)
            best = min(("plain", "plain_with_workers"), key=lambda n: statistics.median(seconds[n]))
            figures["transfer.plain_over_ours"] = median_ratio(seconds[best], seconds["ours"])
        if cifar10:
            spent, accuracy = repro(cifar10, 96, 0)
            figures |= {"cifar10.frozen_seconds": spent, "cifar10.frozen_accuracy": accuracy}
    return figures


def remove_outputs(project: Path) -> None:
    """Remove what `dvc repro` computed in a clone, and DVC's cache of it."""
    for name in (".dvc/cache", "data", "models", "checkpoints"):
        shutil.rmtree(project / name, ignore_errors=True)


def measure_machines(rounds: int, epochs: int, images: int) -> Figures:
    """Measure two hosts against one."""
    if os.geteuid() or not shutil.which("ip") or (os.cpu_count() or 1) < 2:
        print("bench: machines skipped: needs root, `ip` (Debian's iproute2) and two cores")
        return {}
    modules = os.pathsep.join(str(ROOT / name) for name in ("tests", "tests/distributed"))
    scaling = worker("machines", str(rounds), str(epochs), str(images), PYTHONPATH=modules)
    figures: Figures = {}
    for name, rate in (("", "10gbit"), ("_at_1gbit", "1gbit")):
        seconds = ([each[key] for each in scaling] for key in ("alone", rate))
        figures[f"machines.scaling_2_over_1{name}"] = median_ratio(*seconds)
    alone = statistics.median(each["alone"] for each in scaling)
    figures["machines.images_per_second_on_1"] = images / alone
    steps = epochs * -(-images // 256)
    figures["machines.mb_per_step_of_2"] = scaling[0]["10gbit_mb"] / steps
    return figures


PARTS: dict[str, Callable[[bool, list[str]], Figures]] = {
    "epochs": lambda quick, _: measure_epochs(3 if quick else 5),
    "repro": lambda quick, _: measure_repro(1 if quick else 3),
    "time": lambda quick, peers: measure_time_to_accuracy(1 if quick else 10, peers),
    "cnn": lambda quick, _: measure_cnn(1 if quick else 5, 1),
    "best": lambda quick, _: measure_best(1 if quick else BEST_SEEDS),
    "decode": lambda quick, _: measure_decode(20_000 if quick else 100_000, 3),
    "predict": lambda quick, _: measure_predict(20_000 if quick else 70_000, 1 if quick else 3),
    "machines": lambda quick, _: measure_machines(*((1, 2, 512) if quick else (3, 3, 4_608))),
    "photographs": lambda quick, _: measure_photographs(1 if quick else 3, whole=False),
    "transfer": lambda quick, _: measure_transfer(1 if quick else 2),
    "cifar10": lambda *_: measure_photographs(1, whole=True),
}


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="few repeats, one seed; results are not saved"
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEER_MODULES,
        help="in the part `time`; default: all that are installed",
    )
    arguments = parser.parse_args()
    installed = [name for name, module in PEER_MODULES.items() if importlib.util.find_spec(module)]
    peers = installed if arguments.peers is None else arguments.peers
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    parts = arguments.parts or [*PARTS]
    reason = "few repeats" if arguments.quick else why_not_kept(whole=set(parts) == set(PARTS))
    for part in parts:
        epoch_seconds = seconds_of_public_epoch()
        figures = PARTS[part](arguments.quick, peers)
        if figures:
            publish(part, figures, epoch_seconds, keep=not reason)
    print(f"\nbench: not saved: {reason}" if reason else f"\nbench: saved in {RESULTS.name}")


if __name__ == "__main__":
    main()
