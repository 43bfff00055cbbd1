"""The file that holds all that is needed to use a model: its weights, and the card about them."""

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
from image_pipeline.tensors.tensor_files import open_tensors

STATISTICS = "training_statistics/"  # prefix of its tensors' names; a network's have no slash


def write_model(
    path: Path, model: nn.Module, card: ModelCard, statistics: TrainingStatistics | None = None
) -> None:
    """Write weights, buffers and card as one safetensors file, whole or not at all.

    Args:
        path: of the file.
        model: the network.
        card: what is to be known of it.
        statistics: of its training images; needed where the card has thresholds (`ood`).
    """
    tensors = dict(model.state_dict())
    if statistics:
        pixels = vars(statistics).items()
        tensors |= {f"{STATISTICS}{name}": torch.from_numpy(values) for name, values in pixels}
    # Tensors of their own: safetensors takes no two that share memory, and no other order of axes.
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(tensors, card.to_metadata()))


def read_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Rebuild a model for inference.

    Raises:
        DataError: the file is missing or torn, its network has changed since it was trained, or its
            weights are not finite or do not fit.
    """
    with open_tensors(path, "pt", "train") as file:
        card = ModelCard.from_metadata(path, file.metadata())
        _check_source(path, card)
        names = [name for name in file.keys() if not name.startswith(STATISTICS)]  # noqa: SIM118 - no dictionary
        found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        model = _rebuild(path, card, found)
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        promised = model.state_dict()[name].dtype
        if tensor.dtype != promised or not bool(torch.isfinite(tensor).all()):
            kind = str(promised).removeprefix("torch.")
            raise DataError(f"{path}: `{name}` is not {kind} and finite throughout; {REMEDY}")
    model.load_state_dict(tensors)
    return model.eval(), card


def read_training_statistics(path: Path) -> TrainingStatistics:
    """Read what the training images of the model at `path` look like.

    Raises:
        DataError: the file does not tell, or is not what it should be.
    """
    with open_tensors(path, "numpy", "train") as file:
        shape = ModelCard.from_metadata(path, file.metadata()).input_shape
        pictures = []
        for name in ("mean", "deviation"):
            part = file.get_slice(f"{STATISTICS}{name}")
            if tuple(part.get_shape()) != shape or part.get_dtype() != "U8":
                raise DataError(f"{path}: `{STATISTICS}{name}` has the wrong shape; {REMEDY}")
            pictures.append(file.get_tensor(f"{STATISTICS}{name}"))
        return TrainingStatistics(*pictures)


def _check_source(path: Path, card: ModelCard) -> None:
    try:
        same = networks.source_hash(card.network) == card.source
    except NetworkError:
        same = False
    if not same:
        raise DataError(
            f"{path}: the network it was trained with, `{card.network}`, has changed since or is "
            f"gone (src/image_pipeline/models/{card.network}.py); run `dvc repro` to train anew"
        )


def _rebuild(path: Path, card: ModelCard, found: dict[str, tuple[int, ...]]) -> nn.Module:
    """Make the card's network, if its tensors have the shapes that were found.

    First without memory, where the network can be built so: the card may promise gigabytes. It is
    not asked there if that can be helped: for what it would compute, torch imports its compiler.
    """

    def build(*, dry_run: bool) -> nn.Module:
        model = networks.build(
            card.network,
            card.options,
            card.input_shape,
            len(card.data.class_names),
            dry_run=dry_run,
        )
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if shapes != found:
            raise DataError(
                f"{path}: its weights {one_line(found)} are not those of its card; {REMEDY}"
            )
        return model

    try:
        # Some look at a value while they are built, and there is none on this device.
        with torch.device("meta"), suppress(NetworkError, NotImplementedError):
            build(dry_run=False)
        return build(dry_run=True)
    except NetworkError as error:
        reason = one_line(error)
        raise DataError(f"{path}: its network cannot be rebuilt ({reason}); {REMEDY}") from None


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights and buffers by name, also the buffers that a `state_dict` leaves out."""
    return {
        name: tensor.detach()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
