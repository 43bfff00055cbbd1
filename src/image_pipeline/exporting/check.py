"""Compare ONNX Runtime's predictions with PyTorch's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from image_pipeline.common.errors import ExportError, one_line
from image_pipeline.exporting.onnx_file import INPUT, OUTPUT, explain_refusal
from image_pipeline.modeling.inference import max_batch_size, predict
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.tensors.tensor_files import Split

MAX_IMAGES = 1000
MAX_DIFFERENCE = 1e-3  # of a probability; rounding alone changes it by a thousandth of that
LOG_FATAL = 4  # ONNX Runtime's severity: errors are raised, too


@dataclass(frozen=True)
class Agreement:
    """How well both agree.

    Attributes:
        images: number of images compared.
        same_class: number of them for which both predict the same class.
        max_difference: largest difference between two probabilities.
    """

    images: int
    same_class: int
    max_difference: float

    def __str__(self) -> str:
        return (
            f"ONNX Runtime and PyTorch predict the same class for {self.same_class} of "
            f"{self.images} validation images; probabilities differ by {self.max_difference:.1e} "
            "at most"
        )


def open_session(exported: bytes) -> onnxruntime.InferenceSession:
    """Load an ONNX file's content on the CPU, with one thread."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_FATAL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(exported, options, ["CPUExecutionProvider"])


def compare(exported: bytes, model: nn.Module, card: ModelCard, split: Split) -> Agreement:
    """Run both on evenly spaced images of a split, in batches, and ONNX Runtime on one by itself.

    Args:
        exported: the content of the ONNX file.
        model: the network it was made from, in evaluation mode.
        card: of the model.
        split: images uint8 `[N, C, H, W]`, of which at most `MAX_IMAGES` are used.

    Raises:
        ExportError: a probability differs by more than `MAX_DIFFERENCE`, or the file runs with
            some numbers of images only.
    """
    try:  # ONNX Runtime's errors have no class of their own
        session = open_session(exported)
    except Exception as error:
        problem = f"cannot be loaded by ONNX Runtime ({one_line(error)})"
        raise ExportError(explain_refusal(model, card, problem)) from error

    def run(images: Tensor) -> Any:
        problem = f"does not run on a batch of {len(images)}"
        try:
            [found] = session.run([OUTPUT], {INPUT: np.ascontiguousarray(images.numpy())})
        except Exception as error:
            problem = f"{problem} ({one_line(error)})"
            raise ExportError(explain_refusal(model, card, problem)) from error
        if len(found) != len(images):
            raise ExportError(explain_refusal(model, card, f"{problem} (it returns {len(found)})"))
        return found

    step = -(-len(split.labels) // MAX_IMAGES)
    subset = Split(split.images[::step], split.labels[::step], split.info)
    size = max_batch_size(split.shape, MAX_IMAGES)
    same, difference = 0, 0.0
    batches = predict(model, subset, card.data, size)
    for images, (logits, _) in zip(subset.images.split(size), batches, strict=True):
        expected = torch.softmax(logits, dim=1).numpy()
        found = run(images)
        same += int((expected.argmax(1) == found.argmax(1)).sum())
        difference = max(difference, float(np.abs(expected - found).max()))
    run(subset.images[:1])
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"ONNX Runtime's probabilities differ from PyTorch's by up to {difference:.1g}: the "
            "ONNX file does not compute this network; set export.onnx to false in params.yaml, "
            "then run `dvc repro`"
        )
    return Agreement(len(subset.labels), same, difference)
