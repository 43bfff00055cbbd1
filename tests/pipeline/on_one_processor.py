"""Compute in one process what is compared between processors.

    python on_one_processor.py network ROOT [network ROOT ...] [stages ROOT] [operations FILE]

- `network`: train what the project in ROOT is set to, and export it.
- `stages`: every stage that computes, in the project in ROOT; its training is stopped and resumed.
- `operations`: the cases of numerics/cases.py; their lines go to FILE.

One process for all: an emulator takes half a minute to import PyTorch.
"""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

TESTS = Path(__file__).resolve().parent.parent


class Stop(BaseException):
    """Ends a training, as a kill does."""


def run(stage: str) -> None:
    sys.argv = [f"stages/{stage}.py"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def network(root: str) -> None:
    """Train with micro-batches of a 32nd of the usual size, so that processes share small batches.

    No pictures, which `stages` draws. An operation that ONNX lacks is refused on all processors.
    """
    from image_pipeline.common import paths
    from image_pipeline.common.errors import ExportError
    from image_pipeline.exporting.onnx_file import to_onnx
    from image_pipeline.modeling.model_file import read_model
    from image_pipeline.training import live_curves, microbatching

    microbatching.MICROBATCH_BYTES, microbatching.MIN_GHOST_BATCH_SIZE = 1 << 15, 8
    os.chdir(root)
    with patch.object(live_curves, "draw_curves"):
        run("train")
    try:
        exported = to_onnx(*read_model(paths.MODEL), {})
    except ExportError as error:
        exported = str(error).encode()
    paths.ONNX.write_bytes(exported)


def stages(root: str) -> None:
    """Stop training when its first checkpoint is on the disk, and go on from there."""
    from image_pipeline.common import files
    from image_pipeline.training import checkpoint

    def write_and_stop(path: Path, content: bytes) -> None:
        files.write_bytes(path, content)
        raise Stop

    os.chdir(root)
    with patch.object(checkpoint, "write_bytes", write_and_stop):
        try:
            run("train")
        except Stop:
            assert not Path("models").exists()
    for stage in ("train", "evaluate", "tensorize", "plot", "export"):
        if stage == "tensorize":  # late: its tensors are there
            shutil.rmtree("data/tensors")
        run(stage)


def operations(path: str) -> None:
    sys.path.insert(0, str(TESTS))
    from numerics import cases

    with Path(path).open("w") as file:
        for line in cases.run_all():
            print(json.dumps(line), file=file, flush=True)


if __name__ == "__main__":
    from image_pipeline import numerics

    numerics.pin("portable")
    # Stages first: they use micro-batches of the usual size.
    tasks = sorted(zip(sys.argv[1::2], sys.argv[2::2], strict=True), key=lambda t: t[0] != "stages")
    for kind, argument in tasks:
        {"network": network, "stages": stages, "operations": operations}[kind](argument)
