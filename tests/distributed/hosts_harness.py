"""Four networks on one to five hosts, with one and two processes each: the same hashes.

`make soak-machines` runs it. Needs root and `ip`.
"""

import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fault_harness import hosts_with, remove_outputs, train_outputs

from image_pipeline.common import paths
from image_pipeline.tensors.tensor_files import DatasetInfo, open_split_writer
from project import SMALL, Project

HOSTS, PROCESSES = (2, 3, 4, 5), (1, 2)
SHAPE, CLASSES = (3, 32, 32), tuple("0123456789")  # as in CIFAR-10
IMAGES, VALIDATION_IMAGES = 768, 200  # a batch of eight micro-batches, and a last one of four
SETTINGS = {**SMALL, "train.batch_size": 512, "train.epochs": 2}
NETWORKS: dict[str, dict[str, object]] = {
    "mlp": {},
    "cnn": {"filters": [4, 8]},
    "resnet": {"stem_filters": 8, "filters": [8, 16]},
    "dropout_network": {},
}
DROPOUT_NETWORK = Path(__file__).with_name("dropout_network.py")


def write_images(project: Project, path: Path, count: int) -> None:
    """Write a split of random images."""
    rng = np.random.default_rng(count)
    info = DatasetInfo("random", CLASSES, (0.5,) * 3, (0.29,) * 3, "crop")
    with open_split_writer(project.root / path, count, SHAPE, "random", CLASSES) as split:
        images = rng.integers(0, 256, (count, *SHAPE), np.uint8)
        split.append(images, rng.integers(0, len(CLASSES), count))
        split.finish(info)


def main() -> None:
    """Train each network on one host, then on several."""
    begin = time.monotonic()
    runs = 0
    with tempfile.TemporaryDirectory() as folder:
        alone = Project(Path(folder) / "alone", SETTINGS)
        shutil.copy(DROPOUT_NETWORK, alone.root / "src/image_pipeline/models")
        alone.stage("weights")
        write_images(alone, paths.TRAIN_TENSORS, IMAGES)
        write_images(alone, paths.VALIDATION_TENSORS, VALIDATION_IMAGES)
        with hosts_with(alone, Path(folder), max(HOSTS)) as hosts:
            for network, options in NETWORKS.items():
                for project in (alone, *(host.project for host in hosts)):
                    project.set_params(
                        {"train.model.name": network, f"train.model.{network}": options}
                    )
                remove_outputs(alone)
                alone.stage("train")
                expected = train_outputs(alone)
                for count, processes in itertools.product(HOSTS, PROCESSES):
                    for host in hosts:
                        remove_outputs(host.project)
                        host.project.set_params({"machine.cores": processes})
                    coordinator = hosts[0].coordinate(str(count))
                    others = [host.join(hosts[0]) for host in hosts[1:count]]
                    assert coordinator.wait() == 0, coordinator.text
                    assert all(other.wait(60) == 0 for other in others), coordinator.text
                    assert f", {count} machines, " in coordinator.lines[-1], coordinator.text
                    found = train_outputs(hosts[0].project)
                    assert found == expected, f"{network}, {count} hosts, {processes} processes"
                    runs += 1
                    passed = time.monotonic() - begin
                    print(f"{network}, {count} hosts, {processes} processes each, {passed:.0f} s")
                    sys.stdout.flush()
    print(
        f"{runs} runs of {len(NETWORKS)} networks on {HOSTS[0]} to {HOSTS[-1]} hosts in "
        f"{time.monotonic() - begin:.0f} s: each gave the hashes of one host"
    )


if __name__ == "__main__":
    main()
