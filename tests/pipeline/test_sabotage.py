"""A machine that computes one bit of one stage otherwise: `verify` fails, and names the stage.

The code stays as it is, so that nothing but the result can give the machine away. Kernels that are
off by one bit are in tests/numerics/test_operations.py, tensors of a training in
tests/training/test_receipt.py.
"""

import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.experiment_projects import call
from image_pipeline.experiments.results import file_hashes, read_stages
from project import Project

# Runs before every script of a project whose src/ it is in, and `change` at the end of the module,
# as if it were written there.
ON_IMPORT = """\
import importlib.util
import sys


class AtTheEnd:
    def find_spec(self, name, path=None, target=None):
        if name != "{module}":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_change(module):
            load(module)
            exec({change!r}, vars(module))

        spec.loader.exec_module = load_and_change
        return spec


sys.meta_path.insert(0, AtTheEnd())
"""


class Sabotage(NamedTuple):
    """A changed bit.

    Attributes:
        module: that computes it.
        change: that is made at the end of the module.
        outputs: that differ then.
    """

    module: str
    change: str
    outputs: list[str]


STAGES = {
    # The time in the header of a gzip file: the digits themselves have a checksum.
    "download": Sabotage(
        "datasets.digits",
        """
real_write = write_bytes
def write_bytes(path, content):
    changed = bytearray(content)
    changed[4] ^= 1
    real_write(path, bytes(changed))
""",
        ["data/raw"],
    ),
    # A pixel of a training image.
    "tensorize": Sabotage(
        "tensors.tensor_files",
        """
real_append = SplitWriter.append
def append(self, images, labels):
    SplitWriter.append = real_append
    images = images.copy()
    images[0, 0, 14, 14] ^= 1
    real_append(self, images, labels)
SplitWriter.append = append
""",
        ["data/tensors/train.safetensors"],
    ),
    # A weight, while its file is copied.
    "weights": Sabotage(
        "pretrained.fetch",
        """
class shutil:
    def copyfileobj(source, target):
        content = bytearray(source.read())
        content[-4] ^= 1
        target.write(bytes(content))
""",
        ["data/weights"],
    ),
    # A weight after the first step: rounding would forget its lowest bit.
    "train": Sabotage(
        "training.state",
        """
import numpy as np
real_step = TrainState.step
def step(self):
    TrainState.step = real_step
    real_step(self)
    self.model.hidden[0].weight.detach().numpy().view(np.int32)[0, 0] ^= 1 << 12
TrainState.step = step
""",
        ["models/model.safetensors", "metrics/receipt.json"],
    ),
    # The highest bit of a probability's mantissa.
    "evaluate": Sabotage(
        "evaluation.metrics",
        """
real_update = Evaluation.update
def update(self, probabilities, labels):
    Evaluation.update = real_update
    changed = probabilities.copy()
    changed.view(np.int64)[0, labels[0]] ^= 1 << 51
    return real_update(self, changed, labels)
Evaluation.update = update
""",
        ["metrics/test.json", "plots/predictions.csv"],
    ),
    # Likewise of a point of a curve.
    "plot": Sabotage(
        "plotting.report",
        """
real_curves = draw_curves
def draw_curves(path, history, dpi):
    history = history.copy()
    losses = history["validation_loss"].to_numpy(copy=True)
    losses.view(np.int64)[1] ^= 1 << 51
    history["validation_loss"] = losses
    real_curves(path, history, dpi=dpi)
""",
        ["plots/curves.png"],
    ),
    # The lowest bit of a weight.
    "export": Sabotage(
        "exporting.onnx_file",
        """
real_serialise = _serialise
def _serialise(proto, metadata):
    [weights] = [each for each in proto.graph.initializer if each.name == "network.hidden.0.weight"]
    changed = bytearray(weights.raw_data)
    changed[0] ^= 1
    weights.raw_data = bytes(changed)
    return real_serialise(proto, metadata)
""",
        ["models/model.onnx"],
    ),
}
VERIFY = (sys.executable, "-m", "image_pipeline", "verify")
ANEW = ("dvc", "repro", "--force", "--no-run-cache", "--single-item")
FIRST_TENSOR = (
    "train, epoch 1, step 1: the updated `hidden.0.weight` is the first tensor that differs; "
)


def differing(said: str) -> list[str]:
    """Return the lines that name a difference."""
    start = "DIFFERS  "
    return [line.removeprefix(start) for line in said.splitlines() if line.startswith(start)]


@pytest.mark.parametrize("stage", STAGES)
def test_one_bit_of_a_stage_is_found(stage: str, finished: Project, tmp_path: Path) -> None:
    honest = finished.copy_to(tmp_path / "honest")
    if stage == "weights":
        start_from_a_file(honest, tmp_path / "own.safetensors")
    other = honest.copy_to(tmp_path / "other")
    module, change, outputs = STAGES[stage]
    (other.root / "src/sitecustomize.py").write_text(
        ON_IMPORT.format(module=f"image_pipeline.{module}", change=change)
    )
    other.commit("a machine of its own")

    # The stages that follow need not run: their outputs may well differ, too.
    up_to = [] if stage == "download" else ["--stage", stage]
    done = other.run(*VERIFY, *up_to, check=False, timeout=900)
    assert done.returncode == 1, done.stderr
    found = differing(done.stdout)
    if stage == "train":
        assert found.pop().startswith(FIRST_TENSOR)
    of_stage = file_hashes({stage: read_stages(honest.root / "dvc.lock")[stage]})
    assert {*outputs} <= {line.partition(": ")[0] for line in found} <= {*of_stage}
    assert f"; {stage} read the same and wrote other bits" in done.stdout.splitlines()[-1]

    other.run(*ANEW, stage)
    done = call(honest, "verify", "--against", str(other.root), check=False)
    assert done.returncode == 1, done.stderr
    compared = differing(done.stdout)
    if stage == "train":
        assert compared.pop().startswith(FIRST_TENSOR)
    assert [line.partition(": ")[0] for line in compared] == [
        line.partition(": ")[0] for line in found
    ]
    assert all(line.endswith(f" there; an output of {stage}") for line in compared)
    verdict = f" part in {stage}: it read the same and wrote other bits; "
    assert verdict in done.stdout.splitlines()[-1]


def start_from_a_file(project: Project, path: Path) -> None:
    """Have the weights stage, and no other, run with a file of weights, and commit that."""
    save_file({"hidden.0.weight": np.arange(6, dtype=np.float32)}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    project.set_params({"weights.path": str(path), "weights.sha256": sha256})
    project.run(*ANEW, "weights")
    project.commit("weights of its own")
