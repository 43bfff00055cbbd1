"""Export a trained network as one ONNX file that needs none of this code.

The graph contains the normalisation, the network and the softmax: uint8 images in, probabilities
out.

PyTorch has two exporters. This is the older one, which traces one forward pass in a tenth of a
second; the newer one takes ten seconds and more, even for the MLP, and writes the same. A trace
cannot show control flow that depends on pixel values, so that is checked for separately, and the
file's output is compared with PyTorch's (see `check`).
"""

import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from image_pipeline.common.errors import ExportError, one_line
from image_pipeline.exporting.provenance import DatasetProvenance, describe_pixels
from image_pipeline.modeling import networks
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.numerics.torch_private import quiet_onnx_exporter
from image_pipeline.tensors.tensor_files import DatasetInfo

INPUT, OUTPUT, BATCH = "images", "probabilities", "batch"
OPSET = 20  # the newest that this exporter supports; ONNX Runtime has it since 1.17
TRACE_BATCH = 3  # images of the traced forward pass
OPERATOR = re.compile(r"operator '([\w:]+)'")  # in the exporter's error messages
REMEDY = (
    "set export.onnx to false in params.yaml (no other stage needs the ONNX file), then run "
    "`dvc repro`"
)


class DeployedModel(nn.Module):
    """A network with normalisation before it and softmax after it.

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
            per_channel = np.float32(255) * np.array(getattr(description, name), np.float32)
            self.register_buffer(name, torch.from_numpy(per_channel)[:, None, None])  # [C, 1, 1]

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 `[B, C, H, W]` to probabilities float32 `[B, classes]`."""
        pixels = (images.to(torch.float32) - self.mean) / self.std
        return torch.softmax(self.network(pixels), dim=1)


def build_metadata(
    card: ModelCard, source: DatasetProvenance, license_: str, sha256: str
) -> dict[str, str]:
    """Return the metadata of the ONNX file.

    Args:
        card: metadata of the model file.
        source: the data set's provenance.
        license_: of the model, the Hub's identifier.
        sha256: of the model file, which identifies the run.
    """
    names = card.data.class_names
    shape = ", ".join(map(str, card.input_shape))
    pixels = describe_pixels(card.input_shape, card.data.bits)
    initial = card.weights
    return {
        "class_names": json.dumps(names, ensure_ascii=False),
        "dataset": source.title,
        "dataset_homepage": source.homepage,
        **({"initial_weights": f"{initial.name}, licence {initial.license}"} if initial else {}),
        "input": f"{INPUT}: uint8 [{BATCH}, {shape}], {pixels}; {source.image_format}",
        "license": license_,
        "model_sha256": sha256,
        "network": card.network,
        "output": f"{OUTPUT}: float32 [{BATCH}, {len(names)}], in the order of class_names",
    }


def to_onnx(model: nn.Module, card: ModelCard, metadata: Mapping[str, str]) -> bytes:
    """Return the content of the ONNX file, the same bytes on every machine and in every run.

    Args:
        model: the network, in evaluation mode.
        card: its input shape and statistics.
        metadata: key-value pairs to store in the file.

    Raises:
        ExportError: ONNX has no counterpart of an operation, the control flow depends on pixels, or
            the shapes only fit together for some numbers of images.
    """
    deployed = DeployedModel(model, card.data).eval()
    example = torch.zeros(TRACE_BATCH, *card.input_shape, dtype=torch.uint8)
    file = io.BytesIO()
    try:
        with torch.no_grad(), quiet_onnx_exporter(), warnings.catch_warnings(record=True) as caught:
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
    except Exception as error:  # the network's own code may raise anything
        if networks.NO_MEMORY in str(error):
            raise
        raise ExportError(_explain_failure(card.network, error)) from error
    try:
        return _serialise(onnx.load_model_from_string(file.getvalue()), metadata)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            explain_refusal(model, card, f"is invalid ({one_line(error)})")
        ) from error


def _may_depend_on_values(caught: Sequence[warnings.WarningMessage]) -> bool:
    """Tell whether code outside torch converted a tensor to a Python number or bool."""
    return any(
        issubclass(each.category, TracerWarning)
        and not Path(each.filename).is_relative_to(Path(torch.__file__).parent)
        for each in caught
    )


def _run_without_values(model: nn.Module, card: ModelCard) -> None:
    """Run the network on the meta device, where tensors have a shape but no values.

    Raises:
        Exception: of any type, if the network reads a value.
    """
    with torch.no_grad(), torch.device("meta"):
        deepcopy(model).to("meta")(torch.zeros(TRACE_BATCH, *card.input_shape))


def _serialise(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """Serialise without fields that differ between machines: versions, paths, stack traces."""
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


def _explain_failure(network: str, error: BaseException) -> str:
    """Return a message with the line of the network's file, the reason and the remedy."""
    operator = OPERATOR.search(str(error))
    if operator:
        what = f"ONNX has no operation for PyTorch's `{operator[1]}`"
    elif "meta" in str(error):
        what = "its control flow depends on pixel values, which an ONNX graph cannot express"
    else:
        what = f"it cannot be exported to ONNX ({one_line(error)})"
    return f"{networks.error_line(network, error)}: {what}; rewrite that part, or {REMEDY}"


def explain_refusal(model: nn.Module, card: ModelCard, problem: str) -> str:
    """Return a message for an ONNX file that ONNX Runtime refuses, or runs for some batches only.

    Args:
        model: the network it was made from, in evaluation mode.
        card: its input shape and name.
        problem: what the file does, said where no line is at fault.
    """
    line = _line_of_fixed_size(model, card)
    if line is None:
        return f"{networks.shown(card.network)}: its ONNX file {problem}; {REMEDY}"
    return (
        f"{networks.shown(card.network, line)}: the number of images is a constant here, so that "
        f"the ONNX file runs on batches of {TRACE_BATCH} only; use operations that take it as "
        "`x.shape[0]` (such as `expand` or `reshape`) instead of a list of that length, a loop "
        f"over images, `int` or `len`, or {REMEDY}"
    )


def _line_of_fixed_size(model: nn.Module, card: ModelCard) -> int | None:
    """Return where two traces with different numbers of images first differ, None if nowhere."""
    traces = []
    for images in (TRACE_BATCH, TRACE_BATCH + 1):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = torch.zeros(images, *card.input_shape)
            traced = torch.jit.trace(model, example, check_trace=False)
        traces.append(list(traced.inlined_graph.nodes()))
    line = re.compile(re.escape(f"{networks.FOLDER / card.network}.py") + r"\((\d+)\)")
    pairs = enumerate(zip(*traces, strict=False))
    for place in (at for at, nodes in pairs if len({*map(_facts, nodes)}) > 1):
        # Lists have no line of their own: they are read after, or made before, by one that has.
        before = traces[0][place].kind() == "prim::ListUnpack"
        found = (line.search(node.sourceRange()) for node in traces[0][place - before :])
        return next((int(match[1]) for match in found if match), None)
    return None


def _facts(node: torch.Node) -> tuple[object, ...]:
    """Return what two traces of the same code have in common, whatever the shapes."""
    constant = str(node.output().toIValue()) if node.kind() == "prim::Constant" else ""
    return node.kind(), len([*node.inputs()]), len([*node.outputs()]), constant
