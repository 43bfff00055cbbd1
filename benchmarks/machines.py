"""Seconds per epoch on one host and on two.

    PYTHONPATH=tests:tests/distributed python benchmarks/machines.py ROUNDS EPOCHS IMAGES

The residual network on random images of CIFAR's size, on hosts with a core each and a link of 10
and of 1 Gbit/s. Hosts are network namespaces, so it needs root and `ip`.
Prints a line of JSON per round: seconds per epoch, without the first epoch, for each setup.
"""

import json
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fault_harness import remove_outputs
from hosts import Host, Network, Running
from processes import clone_project
from report import ROOT
from ruamel.yaml import YAML

from image_pipeline.common import paths
from image_pipeline.tensors.tensor_files import DatasetInfo, open_split_writer
from project import Project

RECIPE = ROOT / "recipes" / "resnet.yaml"
VALIDATION_IMAGES = 256
SHAPE, CLASSES = (3, 32, 32), tuple("0123456789")  # as in CIFAR-10
LINKS = {"10gbit": "", "1gbit": "100us"}  # and the delay each way, if the kernel can
TRAIN = ("python", "stages/train.py")


def seconds_of_epochs(running: Running, epochs: int) -> float:
    """Wait for the end; return the seconds per epoch, without the first one."""
    begin = end = 0.0
    while running.process.poll() is None:
        epoch = running.epoch()
        begin = begin or time.perf_counter() * (epoch == 1)
        end = end or time.perf_counter() * (epoch == epochs)
        time.sleep(0.005)
    if running.wait() or not begin or not end:
        sys.exit(f"no measurement:\n{running.text}")
    return (end - begin) / (epochs - 1)


def measure_scaling(rounds: int, epochs: int, images: int, folder: Path) -> None:
    """Measure one host and two over each link, in turn."""
    clone_project(folder / "coordinator")
    coordinator = Project.at(folder / "coordinator")
    recipe = YAML(typ="safe").load(RECIPE)["train"] | {"epochs": epochs}
    coordinator.set_params({f"train.{key}": value for key, value in recipe.items()})
    coordinator.stage("weights")
    write_images(coordinator, paths.TRAIN_TENSORS, images)
    write_images(coordinator, paths.VALIDATION_TENSORS, VALIDATION_IMAGES)
    other = coordinator.copy_to(folder / "other")
    with Network() as network:
        hosts = [network.add(project) for project in (coordinator, other)]
        for _ in range(rounds):
            remove_outputs(coordinator)
            alone = on_core(0, hosts[0], *TRAIN)
            found = {"alone": seconds_of_epochs(alone, epochs)}
            for rate, delay in LINKS.items():
                remove_outputs(coordinator)
                for host in hosts:
                    host.limit(rate, delay)
                running = hosts[0].coordinate("2", ("taskset", "-c", "0", *TRAIN))
                join = ("python", "-m", "image_pipeline", "join", hosts[0].endpoint)
                member = on_core(1, hosts[1], *join)
                found[rate] = seconds_of_epochs(running, epochs)
                member.wait()
                traffic = re.search(r"([0-9.]+) MB each way; ", running.text)
                if not traffic:
                    sys.exit(f"no traffic in the output:\n{running.text}")
                found[f"{rate}_mb"] = float(traffic[1])
            print(json.dumps(found), flush=True)


def write_images(project: Project, path: Path, count: int) -> None:
    """Write a split of random images."""
    rng = np.random.default_rng(count)
    info = DatasetInfo("random", CLASSES, (0.5,) * 3, (0.29,) * 3, "crop")
    with open_split_writer(project.root / path, count, SHAPE, "random", CLASSES) as split:
        images = rng.integers(0, 256, (count, *SHAPE), np.uint8)
        split.append(images, rng.integers(0, len(CLASSES), count))
        split.finish(info)


def on_core(core: int, host: Host, *command: str) -> Running:
    """Start a command on a host, pinned to a core."""
    return host.start("taskset", "-c", str(core), *command)


def main() -> None:
    """Measure as the arguments say."""
    rounds, epochs, images = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        measure_scaling(rounds, epochs, images, Path(folder))


if __name__ == "__main__":
    main()
