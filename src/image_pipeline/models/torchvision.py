"""Any classification network of torchvision, by its name there, with its published weights.

Source: https://docs.pytorch.org/vision/stable/models.html lists networks, weights and papers.
"""

import re
from typing import TYPE_CHECKING, Any

from torch import nn
from torchvision import models

if TYPE_CHECKING:
    from image_pipeline.pretrained.weights import PretrainedWeights

LIST = "https://docs.pytorch.org/vision/stable/models.html"
# The published files of DenseNet have names of an older version: `norm.1` is `norm1` today.
DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
AUXILIARY = re.compile(
    r"(aux[12]|AuxLogits)\."
)  # classifiers that helped train GoogLeNet, Inception


def Model(  # noqa: N802 - in the place of a class: each of torchvision's networks has its own
    shape: tuple[int, int, int],
    classes: int,
    *,
    name: str = "resnet18",
    weights: str = "DEFAULT",  # noqa: ARG001 - an option of `pretrained`
) -> nn.Module:
    """Build a network.

    Args:
        shape: 3, height and width of an image.
        classes: number of logits.
        name: of the network, in torchvision.models.
        weights: the name of those that `pretrained` returns; it does not change the network.

    Raises:
        ValueError: there is no such network, or the images are not in colour.
    """
    _check_name(name)
    channels, height, width = shape
    if channels != 3:
        raise ValueError("torchvision's networks take colour images: set tensorize.folder.channels")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True, "transform_input": True}
    elif name.startswith("vit_"):
        options = {"image_size": height}
    elif name.startswith("maxvit_"):
        options = {"input_size": (height, width)}
    model: nn.Module = models.get_model(name, num_classes=classes, **options)
    return model


def pretrained(
    *, name: str = "resnet18", weights: str = "DEFAULT", **_options: object
) -> "PretrainedWeights":
    """Return what torchvision lists of a network's weights.

    Raises:
        ValueError: there is no such network, or it has no such weights.
    """
    from image_pipeline.pretrained.weights import PretrainedWeights

    _check_name(name)
    listed = models.get_model_weights(name).__members__
    if weights not in listed:
        raise ValueError(f"weights: {name} has no {weights!r}, but {' or '.join(listed)}")
    found = listed[weights].value
    folder, _, file = found.url.rpartition("/")
    preparation = found.transforms()
    return PretrainedWeights(
        name=f"{name}, torchvision's {listed[weights].name}",
        file=file,
        sha256=re.findall(r"-([0-9a-f]{8,64})\.", file)[-1],  # as torch.hub does
        source=found.meta.get("recipe", LIST),
        license=found.meta.get("license", "other"),
        mean=tuple(preparation.mean),
        std=tuple(preparation.std),
        mirrors=(folder,),
        image_size=preparation.crop_size[0],
        crop_fraction=preparation.crop_size[0] / preparation.resize_size[0],
    )


def weight_name(published: str) -> str | None:
    """Return a published weight's name in the network; None if that leaves it out."""
    return None if AUXILIARY.match(published) else DENSENET.sub(r"\1\2", published)


def _check_name(name: str) -> None:
    if name not in models.list_models(module=models):
        raise ValueError(f"name: torchvision.models has no classification network {name!r}")
