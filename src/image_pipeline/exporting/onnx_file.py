"""The trained network as one ONNX file that needs none of this code.

In its graph are the normalisation, the network and the softmax: uint8 images in, probabilities out.

PyTorch has two exporters. This is the older one, which follows one call of the network and writes
down its operations, in a tenth of a second; the newer one takes ten seconds and more, even for the
perceptron, and writes as much. What a call cannot show, a way through the network that depends on
the pixels, is looked for; and what comes out is held against PyTorch (see `check`).
"""

import io
import json
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.onnx._internal.torchscript_exporter import utils as exporter

from image_pipeline.common.errors import ExportError, one_line
from image_pipeline.exporting.sources import Source, images_in_words
from image_pipeline.modeling import networks
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.tensors.tensor_files import DatasetInfo

INPUT, OUTPUT, BATCH = "images", "probabilities", "batch"
OPSET = 20  # of ONNX's operators, the newest this exporter has; ONNX Runtime has it since 1.17
EXAMPLES = 3  # images of the call that is followed
OPERATOR = re.compile(r"operator '([\w:]+)'")  # in the words of the exporter's errors


class Deployed(nn.Module):
    """A network with its preprocessing before it and the softmax after it.

    Args:
        network: maps normalised images to logits.
        description: the statistics it was trained with.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, description: DatasetInfo) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            of_channels = np.float32(255) * np.array(getattr(description, name), np.float32)
            self.register_buffer(name, torch.from_numpy(of_channels)[:, None, None])  # [C, 1, 1]

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 `[B, C, H, W]` to probabilities float32 `[B, classes]`."""
        pixels = (images.to(torch.float32) - self.mean) / self.std
        return torch.softmax(self.network(pixels), dim=1)


def describe(card: ModelCard, source: Source, license_: str, sha256: str) -> dict[str, str]:
    """Return what the ONNX file says of itself.

    Args:
        card: the model's own.
        source: the data set.
        license_: of the model, as the Hub names it.
        sha256: of the model's file, which says which run it is.
    """
    names = card.data.class_names
    shape = ", ".join(map(str, card.input_shape))
    return {
        "class_names": json.dumps(names, ensure_ascii=False),
        "dataset": source.title,
        "dataset_homepage": source.homepage,
        "input": (
            f"{INPUT}: uint8 [{BATCH}, {shape}], {images_in_words(card.input_shape)}; {source.form}"
        ),
        "license": license_,
        "model_sha256": sha256,
        "network": card.network,
        "output": f"{OUTPUT}: float32 [{BATCH}, {len(names)}], in the order of class_names",
    }


def to_onnx(model: nn.Module, card: ModelCard, metadata: Mapping[str, str]) -> bytes:
    """Return the content of the ONNX file, the same on every machine and in every run.

    Args:
        model: set to inference.
        card: its shape, classes and statistics.
        metadata: what else the file is to say.

    Raises:
        ExportError: ONNX has no words for an operation of the network.
    """
    deployed = Deployed(model, card.data).eval()
    example = torch.zeros(EXAMPLES, *card.input_shape, dtype=torch.uint8)
    file = io.BytesIO()
    try:
        with torch.no_grad(), _silent(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.onnx.export(
                deployed,
                (example,),
                file,  # type: ignore[arg-type]
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}},
                opset_version=OPSET,
                dynamo=False,
                verbose=False,
            )
        if _may_depend_on_values(caught):
            _run_without_values(model, card)
    except Exception as error:  # it calls the network's own code, which may raise anything
        if networks.NO_MEMORY in str(error):
            raise
        raise ExportError(_why_not(card.network, error)) from error
    return _plain(onnx.load_model_from_string(file.getvalue()), metadata)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter from printing the whole graph where it gives up."""
    verbose = exporter.setup_onnx_logging
    exporter.setup_onnx_logging = nullcontext  # type: ignore[assignment]
    try:
        yield
    finally:
        exporter.setup_onnx_logging = verbose


def _may_depend_on_values(caught: Sequence[warnings.WarningMessage]) -> bool:
    """Say whether code that is not torch's own took a tensor for a number or a truth."""
    return any(
        issubclass(each.category, TracerWarning)
        and not Path(each.filename).is_relative_to(Path(torch.__file__).parent)
        for each in caught
    )


def _run_without_values(model: nn.Module, card: ModelCard) -> None:
    """Run a network on images that have a shape and no values, so that nothing can depend on them.

    Raises:
        Exception: of any kind, where the network asks for a value.
    """
    with torch.no_grad(), torch.device("meta"):
        deepcopy(model).to("meta")(torch.zeros(EXAMPLES, *card.input_shape))


def _plain(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """Return a model's bytes without what differs between machines: versions, paths, traces."""
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for field in ("value_info", "metadata_props", "doc_string"):
        proto.graph.ClearField(field)
    for field in ("producer_name", "producer_version", "metadata_props", "doc_string"):
        proto.ClearField(field)
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _why_not(network: str, error: BaseException) -> str:
    """Say what ended the export, where in the network's file, and what can be done about it."""
    path = networks.FOLDER / f"{network}.py"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"src/image_pipeline/models/{path.name}" + (f", line {lines[-1]}" if lines else "")
    operator = OPERATOR.search(str(error))
    if operator:
        what = f"ONNX has no operation for PyTorch's `{operator[1]}`"
    elif "meta" in str(error):
        what = "which way it takes depends on the pixels, and an ONNX file has one way for all"
    else:
        what = f"it cannot be written as an ONNX file ({one_line(error)})"
    return (
        f"{where}: {what}; rewrite that part, or set export.onnx to false in params.yaml (no other "
        "stage needs the file), then run `dvc repro`"
    )
