"""Four networks on one to five hosts, with one process each and with two: the same hashes.

`make soak-machines` runs it. Needs root and `ip`.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fault_harness import forget, hosts_of, trained

from image_pipeline.common import paths
from image_pipeline.tensors.tensor_files import Description, writing_split
from project import SMALL, Project

HOSTS, PROCESSES = (2, 3, 4, 5), (1, 2)
# Batches of eight lanes, and a last one of four.
SHAPE, CLASSES, IMAGES, VALIDATION_IMAGES = (3, 32, 32), ("a", "b", "c"), 768, 200
SETTINGS = {**SMALL, "train.batch_size": 512, "train.epochs": 2}
NETWORKS: dict[str, dict[str, object]] = {
    "mlp": {},
    "cnn": {"filters": [4, 8]},
    "resnet": {"stem_filters": 8, "filters": [8, 16]},
    "dropped": {},
}
DROPPED = '''"""Dropout, batch norm, and a weight that has no gradient."""

import torch
from torch import Tensor, nn


class Model(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.LazyLinear(classes),
        )
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits
'''


def write_tensors(project: Project) -> None:
    """Write splits of random images."""
    rng = np.random.default_rng(0)
    description = Description("random", CLASSES, (0.5,) * 3, (0.29,) * 3, "crop")
    for path, count in (
        (paths.TRAIN_TENSORS, IMAGES),
        (paths.VALIDATION_TENSORS, VALIDATION_IMAGES),
    ):
        with writing_split(project.root / path, count, SHAPE, "random", CLASSES) as split:
            images = rng.integers(0, 256, (count, *SHAPE), np.uint8)
            split.append(images, rng.integers(0, len(CLASSES), count))
            split.finish(description)


def main() -> None:
    """Train each network on one machine, then on several."""
    begin = time.monotonic()
    runs = 0
    with tempfile.TemporaryDirectory() as folder:
        alone = Project(Path(folder) / "alone", SETTINGS)
        (alone.root / "src/image_pipeline/models/dropped.py").write_text(DROPPED)
        write_tensors(alone)
        with hosts_of(alone, Path(folder), max(HOSTS)) as hosts:
            for network, options in NETWORKS.items():
                for project in (alone, *(host.project for host in hosts)):
                    project.set_params(
                        {"train.model.name": network, f"train.model.{network}": options}
                    )
                forget(alone)
                alone.stage("train")
                expected = trained(alone)
                for count, processes in itertools.product(HOSTS, PROCESSES):
                    for host in hosts:
                        forget(host.project)
                        host.project.set_params({"machine.cores": processes})
                    first = hosts[0].lead(str(count))
                    others = [host.join(hosts[0]) for host in hosts[1:count]]
                    assert first.wait() == 0, first.text
                    assert all(other.wait(60) == 0 for other in others), first.text
                    assert f", {count} machines, " in first.lines[-1], first.text
                    found = trained(hosts[0].project)
                    assert found == expected, f"{network}, {count} hosts, {processes} processes"
                    runs += 1
                    passed = time.monotonic() - begin
                    print(f"{network}, {count} hosts, {processes} processes each, {passed:.0f} s")
                    sys.stdout.flush()
    print(
        f"{runs} runs of {len(NETWORKS)} networks on {HOSTS[0]} to {HOSTS[-1]} hosts in "
        f"{time.monotonic() - begin:.0f} s: each ended in the hashes of one machine"
    )


if __name__ == "__main__":
    main()
