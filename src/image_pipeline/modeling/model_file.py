"""The model file: weights and metadata, all that is needed to use a model."""

import dataclasses
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from image_pipeline.common.errors import DataError, NetworkError, one_line
from image_pipeline.common.files import write_bytes
from image_pipeline.modeling import networks
from image_pipeline.modeling.model_card import REMEDY, ModelCard
from image_pipeline.modeling.ood import TrainingStatistics
from image_pipeline.numerics.torch_private import layer_versions, set_layer_versions
from image_pipeline.tensors.tensor_files import open_tensors

STATISTICS = "training_statistics/"  # prefix of its tensors' names; a network's have no slash
FIRST_VERSION = {"version": 1}  # of the state of most layers, which is not stored


def write_model(
    path: Path, model: nn.Module, card: ModelCard, statistics: TrainingStatistics | None = None
) -> None:
    """Write weights, buffers and metadata to one safetensors file, atomically.

    Args:
        path: of the file.
        model: the network.
        card: its metadata; the versions of its layers' states are added.
        statistics: of the training images; required if the card has `ood` thresholds.
    """
    state = model.state_dict()
    tensors = dict(state)
    if statistics:
        named = vars(statistics).items()
        tensors |= {f"{STATISTICS}{name}": torch.from_numpy(values) for name, values in named}
    # Cloned: safetensors rejects tensors that share memory or are not contiguous.
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    versions = {
        layer: each for layer, each in layer_versions(state).items() if each != FIRST_VERSION
    }
    write_bytes(path, save(tensors, dataclasses.replace(card, versions=versions).to_metadata()))


def read_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Rebuild a model for inference.

    Raises:
        DataError: the file is missing or damaged, its network's code has changed since training,
            or its weights do not match the network, are refused by it or are not finite.
    """
    with open_tensors(path, "pt", "train") as file:
        card = ModelCard.from_metadata(path, file.metadata())
        _check_source(path, card)
        names = [name for name in file.keys() if not name.startswith(STATISTICS)]  # noqa: SIM118 - not a dictionary
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        model = _rebuild(path, card, shapes)
        tensors = {name: file.get_tensor(name) for name in names}
    state = model.state_dict()
    for name, tensor in tensors.items():
        expected = state[name].dtype
        if tensor.dtype != expected or not bool(torch.isfinite(tensor).all()):
            kind = str(expected).removeprefix("torch.")
            raise DataError(f"{path}: `{name}` must be {kind} and finite; {REMEDY}")
    # Layers compare the version that they were saved in with their own.
    layers = [layer for layer, _ in model.named_modules(remove_duplicate=False)]
    set_layer_versions(state, {name: card.versions.get(name, FIRST_VERSION) for name in layers})
    state.update(tensors)
    try:
        model.load_state_dict(state)
    except Exception as error:  # the network's own code may raise anything
        raise DataError(
            f"{path}: its network refuses the weights ({one_line(error)}); {REMEDY}"
        ) from error
    return model.eval(), card


def read_training_statistics(path: Path) -> TrainingStatistics:
    """Read the statistics of the training images of the model at `path`.

    Raises:
        DataError: the file has none, or is invalid.
    """
    with open_tensors(path, "numpy", "train") as file:
        shape = ModelCard.from_metadata(path, file.metadata()).input_shape
        statistics = []
        for name in ("mean", "deviation"):
            tensor = file.get_slice(f"{STATISTICS}{name}")
            if tuple(tensor.get_shape()) != shape or tensor.get_dtype() != "U8":
                raise DataError(f"{path}: `{STATISTICS}{name}` has the wrong shape; {REMEDY}")
            statistics.append(file.get_tensor(f"{STATISTICS}{name}"))
        return TrainingStatistics(*statistics)


def _check_source(path: Path, card: ModelCard) -> None:
    try:
        unchanged = networks.source_hash(card.network) == card.source
    except NetworkError:
        unchanged = False
    if not unchanged:
        raise DataError(
            f"{path}: its network, `{card.network}`, has been changed or removed since training "
            f"(src/image_pipeline/models/{card.network}.py); run `dvc repro` to retrain"
        )


def _rebuild(path: Path, card: ModelCard, shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    """Build the card's network, if its tensors have the shapes of those in the file.

    First on the meta device, if the network supports it: a hostile card may ask for gigabytes. No
    dry run there unless lazy layers need it: to compute on that device, torch imports its compiler.
    """

    def build(*, dry_run: bool) -> nn.Module:
        model = networks.build(
            card.network,
            card.options,
            card.input_shape,
            len(card.data.class_names),
            dry_run=dry_run,
        )
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if shapes != expected:
            raise DataError(
                f"{path}: its weights {one_line(shapes)} do not match its metadata; {REMEDY}"
            )
        return model

    try:
        # Some networks read a tensor's values while they are built; the meta device has none.
        with torch.device("meta"), suppress(NetworkError, NotImplementedError):
            build(dry_run=False)
        return build(dry_run=True)
    except NetworkError as error:
        reason = one_line(error)
        raise DataError(f"{path}: its network cannot be rebuilt ({reason}); {REMEDY}") from None


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights and buffers by name, non-persistent buffers (not in `state_dict`) too."""
    return {
        name: tensor.detach()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
