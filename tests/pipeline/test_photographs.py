"""Large photographs: what a step takes is bounded in bytes, whatever their number."""

import json
import sys

import pytest

from project import Project, require

MAX_MB = 1500
# 64 photographs a step, of 224 x 224 pixels in colour; the memory that all processes take together.
SCRIPT = """
import json, os, sys, threading, time
from pathlib import Path
from image_pipeline import numerics
numerics.pin("portable")
import numpy as np, torch
from image_pipeline.common.params import read_params
from image_pipeline.training.params import TrainParams
from image_pipeline.training.train import Trainer
from image_pipeline.tensors.tensor_files import DatasetInfo, Split
from image_pipeline.training.checkpoint import CheckpointFile

def peak(most=[0]):
    while True:
        family = [os.getpid(), *map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
                                    .read_text().split())]
        total = 0
        for process in family:
            try:
                lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        most[0] = max(most[0], total / 1024)
        time.sleep(0.02)

def split(count):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 3, 224, 224), np.uint8))
    labels = torch.from_numpy(np.arange(count) % 3)
    return Split(images, labels, DatasetInfo("own", ("a", "b", "c"), (0.5,) * 3, (0.3,) * 3))

most = [0]
threading.Thread(target=peak, args=(most,), daemon=True).start()
settings = read_params()
changes = {"model": {"name": sys.argv[1]}, "batch_size": 64, "epochs": 1}
train = TrainParams.model_validate(settings.train.model_dump() | changes)
trainer = Trainer(split(int(sys.argv[2])), split(64), train, settings.machine)
list(trainer.train(CheckpointFile(Path(sys.argv[3]), "0")))
print(json.dumps(most[0]))
"""


@pytest.mark.parametrize("network", ["resnet", "cnn"])
def test_a_batch_of_64_photographs_trains_in_bounded_memory(network: str, project: Project) -> None:
    require(sys.platform == "linux", "Linux's /proc")
    peaks = {}
    for count in (64, 256):
        done = project.run(sys.executable, "-c", SCRIPT, network, str(count), "checkpoints")
        peaks[count] = json.loads(done.stdout.splitlines()[-1])
    images_mb = 192 * 3 * 224 * 224 / 1e6  # of the split itself, which a stage maps from its file
    assert peaks[256] < MAX_MB
    assert peaks[256] - peaks[64] < 6 * images_mb  # 90 to 120 MB were seen, of 29 MB of images
