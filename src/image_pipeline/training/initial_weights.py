"""The weights that training starts from, copied into a network of the user's classes."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from image_pipeline.common.errors import DataError, NetworkError, one_line
from image_pipeline.modeling import networks
from image_pipeline.modeling.model_card import WeightsProvenance
from image_pipeline.modeling.model_file import STATISTICS
from image_pipeline.pretrained.weights import PretrainedWeights, read_manifest, read_state_dict
from image_pipeline.tensors.tensor_files import Split

SHOWN = 3  # layers that differ, in an error
COUNTER = "num_batches_tracked"  # of batch norm, which files of PyTorch before 0.4.1 lack

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InitialWeights:
    """A file of pretrained weights.

    Attributes:
        info: what is known of it.
        path: of the file.
    """

    info: PretrainedWeights
    path: Path

    @classmethod
    def read(cls, folder: Path) -> "InitialWeights | None":
        """Find the weights that the stage `weights` left in a folder; None if there are none.

        Raises:
            DataError: the folder is missing or damaged.
        """
        info = read_manifest(folder)
        return cls(info, folder / info.file) if info else None

    @property
    def provenance(self) -> WeightsProvenance:
        """What the model's metadata say of the weights."""
        info = self.info
        return WeightsProvenance(info.name, info.source, info.license, info.sha256)

    def normalise_like(self, split: Split) -> Split:
        """Return a split whose images will be normalised as those that the weights learnt from.

        Raises:
            DataError: the weights are for images with another number of channels.
        """
        channels = split.shape[0]
        if len(self.info.mean) != channels:
            raise DataError(
                f"{self.path}: these weights are for images with {len(self.info.mean)} channels, "
                f"and the images have {channels}; set tensorize.folder.channels, or weights.mean "
                "and weights.std of a file of your own"
            )
        info = replace(split.info, mean=self.info.mean, std=self.info.std)
        return replace(split, info=info)

    def note(self, split: Split) -> str:
        """Return in one line how a split's images differ from those of the weights; or nothing.

        What counts is how large things are, in pixels. Somewhat larger ones than in training are no
        worse (Touvron et al., "Fixing the train-test resolution discrepancy", 2019).
        """
        size, fraction = self.info.image_size, self.info.crop_fraction
        found, kept = split.shape[1], split.info.crop_fraction
        if size is None or 0.75 < (found / kept) / (size / fraction) < 1.5:
            return ""
        return (
            f"the weights learnt from images of {size} pixels, {fraction:.3g} of the shorter side; "
            f"these have {found} and {kept:.3g} (tensorize.folder.image_size and crop_fraction)"
        )

    def load_into(self, model: nn.Module, name: str, classes: int) -> None:
        """Copy all weights and buffers but those of the head, which keeps its random ones.

        Args:
            model: the network.
            name: of its file.
            classes: number of logits.

        Raises:
            DataError: the file cannot be read, or its weights are not this network's.
            NetworkError: the network has no head.
        """
        head = networks.head(model, classes)
        if head is None:
            raise NetworkError(
                f"train.model.{name}: pretrained weights need a last layer, nn.Linear or a 1x1 "
                f"convolution, with {classes} outputs, one per class; this network has none"
            )
        rename = networks.weight_names(name)
        published = read_state_dict(self.path).items()
        given = {
            new: tensor
            for key, tensor in published
            if (new := rename(key)) is not None and not new.startswith(STATISTICS)
        }
        own = model.state_dict()
        here, there = (
            {
                key: tuple(tensor.shape)
                for key, tensor in tensors.items()
                if not key.startswith(f"{head}.")
            }
            for tensors in (own, given)
        )
        differing = [
            _describe(key, here.get(key), there.get(key))
            for key in here | there
            if here.get(key) != there.get(key) and not (key.endswith(COUNTER) and key in here)
        ]
        if differing:
            more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
            raise DataError(
                f"{self.path}: these are weights of another network than {name} with its options: "
                f"{'; '.join(differing[:SHOWN])}{more}"
            )
        with torch.no_grad():
            for key in here.keys() & there.keys():
                if not bool(torch.isfinite(given[key]).all()):
                    raise DataError(f"{self.path}: `{key}` holds values that are not finite")
                own[key].copy_(given[key])


def _describe(key: str, here: Shape | None, there: Shape | None) -> str:
    shapes = ("not there" if shape is None else str(list(shape)) for shape in (here, there))
    return "`{}` is {} in the network and {} in the file".format(one_line(key, 80), *shapes)
