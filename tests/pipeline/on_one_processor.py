"""Compute in one process what is compared between processors: pairs of a task and its argument.

    python on_one_processor.py resumed ROOT network ROOT operations FILE ...

- `resumed`: train what the project in ROOT is set to, by one process.
- `by-two`: the same by two processes; its first checkpoint is copied to `first/`, too.
- `first-epoch`: the same by one process, ended where its first checkpoint is on the disk.
- `rest`: the other stages that compute, in a project that has been trained.
- `network`: train what the project in ROOT is set to, and export it.
- `operations`: the cases of numerics/cases.py; their lines go to FILE.
- `samples`, `few-samples`: PyTorch's own samples, all of them or some, by each kernel and by
  PyTorch's own; what differed goes to FILE.

One process for all: an emulator takes half a minute to import PyTorch. What trains comes first: a
checkpoint is found by code that has loaded the same modules.
"""

import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

TESTS = Path(__file__).resolve().parent.parent
FEW = 6  # every so many of PyTorch's samples


class Stop(BaseException):
    """Ends a training, as a kill does."""


def run(stage: str) -> None:
    sys.argv = [f"stages/{stage}.py"]
    runpy.run_path(sys.argv[0], run_name="__main__")


@contextmanager
def processes(count: int) -> Iterator[None]:
    from image_pipeline.training import train

    with patch.object(train, "available_cores", lambda: count):
        yield


@contextmanager
def at_first_checkpoint(action: Callable[[Path], object]) -> Iterator[None]:
    from image_pipeline.common import files
    from image_pipeline.training import checkpoint

    seen: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        files.write_bytes(path, content)
        seen.append(path)
        if len(seen) == 1:
            action(path)

    with patch.object(checkpoint, "write_bytes", write):
        yield


def resumed(root: str) -> None:
    os.chdir(root)
    with processes(1):
        run("train")


def by_two(root: str) -> None:
    os.chdir(root)
    Path("first").mkdir()
    with processes(2), at_first_checkpoint(lambda path: shutil.copy(path, "first")):
        run("train")


def first_epoch(root: str) -> None:
    def stop(_: Path) -> None:
        raise Stop

    os.chdir(root)
    try:
        with processes(1), at_first_checkpoint(stop):
            run("train")
    except Stop:
        assert not Path("models").exists()


def rest(root: str) -> None:
    os.chdir(root)
    for stage in ("evaluate", "tensorize", "plot", "export"):
        if stage == "tensorize":  # late: its tensors are there
            shutil.rmtree("data/tensors")
        run(stage)


def network(root: str) -> None:
    """Train with micro-batches of a 32nd of the usual size, so that processes share small batches.

    No pictures, which `rest` draws. An operation that ONNX lacks is refused on all processors.
    """
    from image_pipeline.common import paths
    from image_pipeline.common.errors import ExportError
    from image_pipeline.exporting.onnx_file import to_onnx
    from image_pipeline.modeling.model_file import read_model
    from image_pipeline.training import live_curves, microbatching

    os.chdir(root)
    small: Any = {"MICROBATCH_BYTES": 1 << 15, "MIN_GHOST_BATCH_SIZE": 8}
    with patch.object(live_curves, "draw_curves"), patch.multiple(microbatching, **small):
        run("train")
    try:
        exported = to_onnx(*read_model(paths.MODEL), {})
    except ExportError as error:
        exported = str(error).encode()
    paths.ONNX.write_bytes(exported)


def operations(path: str) -> None:
    from numerics import cases

    with Path(path).open("w") as file:
        for line in cases.run_all():
            print(json.dumps(line), file=file, flush=True)


def samples(path: str, every: int = 1) -> None:
    from image_pipeline.numerics import kernels
    from numerics import own_samples

    kernels.install()
    found = {}
    for name in own_samples.names()[::every]:
        try:
            own_samples.compare(name)
            found[name] = ""
        except (AssertionError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    Path(path).write_text(json.dumps(found))


def few_samples(path: str) -> None:
    samples(path, FEW)


TASKS: dict[str, Callable[[str], None]] = {
    "resumed": resumed,
    "by-two": by_two,
    "first-epoch": first_epoch,
    "rest": rest,
    "network": network,
    "operations": operations,
    "samples": samples,
    "few-samples": few_samples,
}

if __name__ == "__main__":
    from image_pipeline import numerics

    numerics.pin("portable")
    sys.path.insert(0, str(TESTS))
    for task, argument in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        TASKS[task](argument)
