"""A file of weights that others have trained: what is known of it, and how it is read safely."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.common.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor  # whose import takes a second, which the default settings need not

MANIFEST = "weights.json"
SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class PretrainedWeights:
    """A file with a network's state dict, and how the images it learnt from were prepared.

    Attributes:
        name: what it is, in a few words.
        file: its file name: a `.safetensors`, or what `torch.load(weights_only=True)` reads.
        sha256: of the file; its first digits where no more is published.
        source: address of the page or paper that describes it; empty if there is none.
        license: its name.
        mean, std: that normalised the images, per channel, in units of 255.
        mirrors: see `fetch_files`.
        image_size: pixels on a side of the images; None if unknown.
        crop_fraction: share of the shorter side that was kept of an image.
    """

    name: str
    file: str
    sha256: str
    source: str
    license: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirrors: tuple[str, ...] = ()
    image_size: int | None = None
    crop_fraction: float = 1.0


def write_manifest(folder: Path, weights: PretrainedWeights | None) -> None:
    """Write beside the file in `folder` what is known of it, with its whole SHA-256."""
    values = None
    if weights:
        with (folder / weights.file).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        values = asdict(weights) | {"sha256": digest, "mirrors": ()}
    write_bytes(folder / MANIFEST, f"{json.dumps(values, indent=2, sort_keys=True)}\n".encode())


def read_manifest(folder: Path) -> PretrainedWeights | None:
    """Read what `write_manifest` wrote.

    Raises:
        DataError: it is missing or invalid.
    """
    path = folder / MANIFEST
    try:
        values: dict[str, Any] | None = json.loads(path.read_bytes())
        if values is None:
            return None
        lists = {key: tuple(values[key]) for key in ("mean", "std", "mirrors")}
        return PretrainedWeights(**(values | lists))
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro weights`") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not valid ({one_line(repr(error))}); run `dvc repro --force weights`"
        ) from None


def read_state_dict(path: Path) -> dict[str, "Tensor"]:
    """Read a file of weights, without running code that may be in it.

    What training scripts save beside the weights (`state_dict`), and the prefix that
    `nn.DataParallel` gives names, are left out.

    Raises:
        DataError: the file is damaged, holds code, or is no state dict.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == SAFETENSORS:
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro --force weights`") from None
    except UnpicklingError as error:
        if "unsupported" in str(error).lower():  # torch's word for all but tensors, plain values
            raise DataError(
                f"{path}: it holds objects or code, not weights alone, and is not loaded; save "
                "the network's state_dict(), best as .safetensors"
            ) from None
        raise _damaged(path, error) from None
    except (EOFError, LookupError, OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise _damaged(path, error) from None
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise DataError(
            f"{path}: no state dict (layers' names and tensors); save model.state_dict()"
        )
    state = dict(found)
    if not state:
        raise DataError(f"{path}: it holds no weights")
    torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def _damaged(path: Path, error: BaseException) -> DataError:
    cause = one_line(str(error).split("\n")[0]) or type(error).__name__
    return DataError(f"{path}: not a whole file of weights ({cause}); get it again")
