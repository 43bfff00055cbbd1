"""Does ONNX Runtime say of images what PyTorch says?"""

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import nn

from image_pipeline.common.errors import ExportError
from image_pipeline.exporting.onnx_file import INPUT, OUTPUT
from image_pipeline.modeling.inference import max_batch_size, predict
from image_pipeline.tensors.tensor_files import DatasetInfo, Split

MAX_IMAGES = 1000
MAX_APART = 1e-3  # of a probability; rounding alone moves it by a thousandth of that
SERIOUS = 3  # of ONNX Runtime's levels: errors, and no advice


@dataclass(frozen=True)
class Agreement:
    """What came of holding the two against each other.

    Attributes:
        images: how many were looked at.
        same_class: of how many both name the same class.
        apart: the largest difference of two probabilities.
    """

    images: int
    same_class: int
    apart: float

    def __str__(self) -> str:
        return (
            f"ONNX Runtime and PyTorch name the same class for {self.same_class} of {self.images} "
            f"validation images, probabilities at most {self.apart:.1e} apart"
        )


def open_session(exported: bytes) -> onnxruntime.InferenceSession:
    """Load an ONNX file's content for this processor, one thread."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SERIOUS
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(exported, options, ["CPUExecutionProvider"])


def compare(exported: bytes, model: nn.Module, description: DatasetInfo, split: Split) -> Agreement:
    """Run both on images spread over a split, some at a time.

    Args:
        exported: the content of the ONNX file.
        model: what it was made from, set to inference.
        description: the statistics the model was trained with.
        split: images uint8 `[N, C, H, W]`, of which at most `MAX_IMAGES` are looked at.

    Raises:
        ExportError: they do not agree.
    """
    session = open_session(exported)
    every = -(-len(split.labels) // MAX_IMAGES)
    some = Split(split.images[::every], split.labels[::every], split.description)
    size = max_batch_size(split.shape, MAX_IMAGES)
    same, apart = 0, 0.0
    batches = predict(model, some, description, size)
    for images, (logits, _) in zip(some.images.split(size), batches, strict=True):
        expected = torch.softmax(logits, dim=1).numpy()
        [found] = session.run([OUTPUT], {INPUT: np.ascontiguousarray(images.numpy())})
        same += int((expected.argmax(1) == found.argmax(1)).sum())
        apart = max(apart, float(np.abs(expected - found).max()))
    if not apart <= MAX_APART:
        raise ExportError(
            f"ONNX Runtime's probabilities are up to {apart:.1g} from PyTorch's: the ONNX file is "
            "not this network"
        )
    return Agreement(len(some.labels), same, apart)
