"""params.yaml as typed, checked, frozen values.

The file is read with the YAML 1.2 reader that DVC itself uses, so that `1e-3` is the same number to
both, and in its safe form: duplicate keys and tags that would construct objects are refused. The
whole file is checked whichever stage reads it: a typing mistake in `train:` is found before the
download starts.
"""

import math
from functools import partial
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticKnownError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.paths import PARAMS

MAX_BYTES = 1 << 16  # the reader takes a second for so much
MAX_PROBLEMS = 5  # shown at once
MAX_SEED = 2**32 - 1
MAX_OPTIONS = 64  # of a network or an optimizer, and values in one of them

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Fit = Literal["pad", "crop"]  # of an image into a square: all of it and a border, or its middle
Fraction = Annotated[float, Field(gt=0, lt=1)]
URL = r"^(https?://[!-~]+)?$"
SHA256 = r"^([0-9a-f]{64})?$"
CLASS_NAME = r"^[A-Za-z][A-Za-z0-9]*$"
LICENSE = r"^[a-z0-9][a-z0-9.-]{0,63}$"


def _no_truth(value: object) -> object:
    """Refuse `true` and 1.0, which equal 1, where a choice among numbers asks for 1."""
    if isinstance(value, (bool, float)):
        raise PydanticKnownError("int_type")
    return value


def _files(folder: str) -> list[str]:
    """Return the names that a key may have that names a file in a folder of this package."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / folder).glob("[a-z]*.py"))


def _name_of_a_file(folder: str, name: str) -> str:
    if name not in _files(folder):
        raise ValueError(f"it must be {' or '.join(_files(folder))}")
    return name


def _options(block: object) -> object:
    """Refuse what cannot be the keyword arguments of a constructor."""

    def fits(value: object, depth: int) -> bool:
        if isinstance(value, list):
            return (
                depth > 0 and len(value) <= MAX_OPTIONS and all(fits(v, depth - 1) for v in value)
            )
        return isinstance(value, (str, bool, int)) or (
            isinstance(value, float) and math.isfinite(value)
        )

    fitting = isinstance(block, dict) and len(block) <= MAX_OPTIONS
    if not fitting or not all(
        isinstance(key, str) and key.isidentifier() and fits(value, 2)
        for key, value in block.items()  # type: ignore[attr-defined]
    ):
        raise ValueError(
            f"it must be a block of at most {MAX_OPTIONS} options, each a word, a number, true, "
            "false, or a list of these"
        )
    return block


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DownloadFolderParams(_Block):
    """Where the images of the data set `folder` come from."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    url: Annotated[str, Field(pattern=URL, max_length=4096)]
    sha256: Annotated[str, Field(pattern=SHA256)]

    @field_validator("url")
    @classmethod
    def _has_a_host(cls, url: str) -> str:
        try:
            usable = bool(not url or urlsplit(url).hostname)
        except ValueError:  # as `http://[` has it
            usable = False
        if not usable:
            raise ValueError("it must be an http(s) address with a host, or empty")
        return url


class DownloadParams(_Block):
    """Which data set."""

    dataset: Literal[
        "mnist",
        "fashion_mnist",
        "kmnist",
        "emnist",
        "qmnist",
        "usps",
        "cifar10",
        "cifar100",
        "digits",
        "folder",
    ]
    folder: DownloadFolderParams


class TensorizeFolderParams(_Block):
    """What the images of the data set `folder` become, and how they are split."""

    channels: Annotated[Literal[1, 3], BeforeValidator(_no_truth)]
    image_size: Annotated[int, Field(ge=4, le=1024)]
    fit: Fit
    test_fraction: Annotated[float, Field(ge=0.01, le=0.5)]
    unreadable: Literal["error", "skip"]


class TensorizeParams(_Block):
    """How the training images are split."""

    validation_fraction: Annotated[float, Field(ge=0.01, le=0.5)]
    seed: Seed
    emnist_split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]
    folder: TensorizeFolderParams


AUGMENTATION_AMOUNTS = (
    "rotation",
    "scale",
    "shear",
    "translation",
    "elastic",
    "horizontal_flip",
    "crop_padding",
    "cutout",
)
NO_CUSTOM = "none"  # of `train.augmentation.custom`


class AugmentationParams(_Block):
    """Random changes of the training images.

    The first five are the largest change, drawn evenly from minus to plus the value.
    """

    rotation: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[float, Field(ge=0, le=0.9)]
    shear: Annotated[float, Field(ge=0, le=60)]
    translation: Annotated[float, Field(ge=0, le=1)]
    elastic: Annotated[float, Field(ge=0, le=1)]
    group_size: Annotated[int, Field(ge=1, le=4096)]
    horizontal_flip: Annotated[float, Field(ge=0, le=1)]
    crop_padding: Annotated[int, Field(ge=0, le=256)]
    cutout: Annotated[int, Field(ge=0, le=1024)]
    custom: Annotated[str, AfterValidator(partial(_name_of_a_file, "augmentations"))]

    @property
    def enabled(self) -> bool:
        """Whether any image is changed at all."""
        changed = any(getattr(self, amount) for amount in AUGMENTATION_AMOUNTS)
        return changed or self.custom != NO_CUSTOM


class _Choice(BaseModel):
    """A name, and blocks of options by name; those of names that are not chosen are left alone."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_options)]]

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The options of what is chosen; none where it has no block."""
        return dict((self.__pydantic_extra__ or {}).get(self.name, {}))


class ModelParams(_Choice):
    """Which network, and its constructor's keyword arguments."""

    name: Annotated[str, AfterValidator(partial(_name_of_a_file, "models"))]


class OptimizerParams(_Choice):
    """Which class of torch.optim, and its keyword arguments beside the learning rate."""

    name: Annotated[str, Field(pattern=CLASS_NAME, max_length=64)]


class TrainParams(_Block):
    """The network and how it learns."""

    seed: Seed
    numerics: Literal["portable", "fast"]
    model: ModelParams
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    optimizer: OptimizerParams
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    schedule: Literal["one_cycle", "constant"]
    warmup_fraction: Fraction
    cycle_momentum: bool
    base_momentum: Annotated[float, Field(ge=0, lt=1)]
    max_momentum: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    augmentation: AugmentationParams


class EvaluateParams(_Block):
    """How the model is judged."""

    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    calibration_bins: Annotated[int, Field(ge=2, le=1000)]


class PlotParams(_Block):
    """What the pictures show."""

    dpi: Annotated[int, Field(ge=50, le=400)]
    mistakes: Annotated[int, Field(ge=1, le=100)]
    samples: Annotated[int, Field(ge=1, le=100)]
    seed: Seed


class ExportParams(_Block):
    """What is written for others, and what it says of itself beside what the run says."""

    onnx: bool
    license: Annotated[str, Field(pattern=LICENSE)]


class MachineParams(_Block):
    """How the machine is used; no stage declares it, since no result depends on it."""

    cores: Annotated[int, Field(ge=1, le=64)]
    checkpoint_every: Annotated[int, Field(ge=0, le=10_000)]


class Params(_Block):
    """The whole of params.yaml: one block per stage, and one of the machine."""

    download: DownloadParams
    tensorize: TensorizeParams
    train: TrainParams
    evaluate: EvaluateParams
    plot: PlotParams
    export: ExportParams
    machine: MachineParams


def read_params(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: with one line that names the file, every wrong key with its value, and what is
            allowed.
    """
    return check_params(_parse(path), path)


def check_params(raw: object, path: Path) -> Params:
    """Return the settings that were read from `path` as plain values.

    Raises:
        ParamsError: as `read_params` does.
    """
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = "; ".join(_describe(item) for item in found[:MAX_PROBLEMS])
        more = f"; and {len(found) - MAX_PROBLEMS} more" if len(found) > MAX_PROBLEMS else ""
        raise ParamsError(f"{path}: {problems}{more}") from None


def _parse(path: Path) -> object:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ParamsError(f"{path}: larger than {MAX_BYTES} bytes; this is no params file")
        content = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: not found in {Path.cwd()}; run from the project's root"
        ) from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        document = YAML(typ="safe", pure=True).load(content)
    except MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ParamsError(
            f"{path}{where}: not valid YAML here: {one_line(error.problem)}"
        ) from None
    except ReaderError as error:
        line = content.count("\n", 0, error.position) + 1
        raise ParamsError(f"{path}, line {line}: not valid YAML here: {error.reason}") from None
    except Exception as error:  # a tag's constructor raises whatever it trips over: `!!bool maybe`
        problem = one_line(f"{type(error).__name__}: {error}")
        raise ParamsError(f"{path}: not valid YAML: {problem}") from None
    if not isinstance(document, dict):
        raise ParamsError(f"{path}: a mapping with one block per stage is expected at the top")
    return document


def _describe(item: ErrorDetails) -> str:
    key = one_line(".".join(str(part) for part in item["loc"]), 80)
    match item["type"]:
        case "extra_forbidden" | "invalid_key":
            return f"{key}: unknown key; remove it or correct its spelling"
        case "missing":
            return f"{key}: missing; add it (the committed params.yaml has it)"
    problem = item["msg"].removeprefix("Value error, ")
    return f"{key}: {_shown(item['input'])} is not allowed: {problem[0].lower()}{problem[1:]}"


def _shown(value: object) -> str:
    """Show a value as YAML writes it, however large, nested or self-repeating it is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    short = Repr()
    short.maxlevel, short.maxlist, short.maxdict = 2, 3, 3
    try:
        return one_line(short.repr(value), 60)
    except ValueError:  # Python's limit on the digits of an integer
        return "a number of thousands of digits"
