"""params.yaml as typed, checked, frozen values.

The file is read with the YAML 1.2 reader that DVC itself uses, so that `1e-3` is the same number to
both, and in its safe form: duplicate keys and tags that would construct objects are refused. The
whole file is checked whichever stage reads it: a typing mistake in `train:` is found before the
download starts.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from image_pipeline.errors import ParamsError
from image_pipeline.paths import PARAMS

MAX_BYTES = 1 << 20
MAX_SEED = 2**32 - 1

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DownloadParams(_Block):
    """Which data set."""

    dataset: Literal["mnist", "digits"]


class TensorizeParams(_Block):
    """How the training images are split."""

    validation_fraction: Annotated[float, Field(ge=0.01, le=0.5)]
    seed: Seed


class AugmentationParams(_Block):
    """Largest random change of a training image, drawn evenly from minus to plus the value."""

    rotation: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[float, Field(ge=0, le=0.9)]
    shear: Annotated[float, Field(ge=0, le=60)]
    translation: Annotated[float, Field(ge=0, le=1)]
    group_size: Annotated[int, Field(ge=1, le=4096)]

    @property
    def enabled(self) -> bool:
        """Whether any image is changed at all."""
        return any((self.rotation, self.scale, self.shear, self.translation))


class TrainParams(_Block):
    """The network and how it learns."""

    seed: Seed
    numerics: Literal["portable", "fast"]
    threads: Annotated[int, Field(ge=1, le=64)]
    recipe: Literal["tuned", "plain"]
    hidden_sizes: Annotated[
        list[Annotated[int, Field(ge=1, le=65536)]], Field(min_length=1, max_length=16)
    ]
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    schedule: Literal["one_cycle", "constant"]
    warmup_fraction: Fraction
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    augmentation: AugmentationParams
    checkpoint_every: Annotated[int, Field(ge=0, le=10_000)]

    @model_validator(mode="after")
    def _plain_recipe(self) -> "TrainParams":
        """Settle what `recipe: plain` stands for, so that no reader needs to ask for the recipe.

        Source: the public project Image-Classification-with-MNIST (Adam at a constant 1e-3, batches
        of 100, nothing else).
        """
        if self.recipe == "plain":
            unchanged = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "translation": 0.0}
            settled = {
                "batch_size": 100,
                "learning_rate": 1e-3,
                "schedule": "constant",
                "label_smoothing": 0.0,
                "augmentation": self.augmentation.model_copy(update=unchanged),
            }
            self.__dict__.update(settled)
        return self


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


class Params(_Block):
    """The whole of params.yaml: one block per stage."""

    download: DownloadParams
    tensorize: TensorizeParams
    train: TrainParams
    evaluate: EvaluateParams
    plot: PlotParams


def read_params(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: with one line that names the file, every wrong key with its value, and what is
            allowed.
    """
    raw = _parse(path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_describe(item) for item in error.errors(include_url=False))
        raise ParamsError(f"{path}: {problems}") from None


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
        problem = " ".join(str(error.problem).split())
        raise ParamsError(f"{path}{where}: not valid YAML here: {problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ParamsError(f"{path}: not valid YAML: {problem}") from None
    if not isinstance(document, dict):
        raise ParamsError(f"{path}: a mapping with one block per stage is expected at the top")
    return document


def _describe(item: ErrorDetails) -> str:
    key = ".".join(str(part) for part in item["loc"])
    match item["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; remove it or correct its spelling"
        case "missing":
            return f"{key}: missing; add it (the committed params.yaml has it)"
    message = item["msg"].removeprefix("Input should be ")
    shown = repr(item["input"])
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return f"{key}: {shown} is not allowed: it must be {message}"
