"""params.yaml as typed, checked, frozen values.

The file is read with the YAML 1.2 reader that DVC itself uses, so that `1e-3` is the same number to
both, and in its safe form: duplicate keys and tags that would construct objects are refused.
"""

from datetime import date
from functools import cache
from importlib import import_module
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.paths import PARAMS
from image_pipeline.common.schema import Block

if TYPE_CHECKING:
    from image_pipeline.downloading.params import DownloadParams
    from image_pipeline.evaluation.params import EvaluateParams
    from image_pipeline.exporting.params import ExportParams
    from image_pipeline.plotting.params import PlotParams
    from image_pipeline.pretrained.params import WeightsParams
    from image_pipeline.tensorizing.params import TensorizeParams
    from image_pipeline.training.params import TrainParams

# The room whose `params.py` has a block's schema. All blocks are checked whichever stage runs, so
# that a typing mistake in `train:` is found before the download starts. But a stage depends only on
# the rooms of the blocks that it uses: checking the others cannot change its result.
ROOMS = {
    "DownloadParams": "downloading",
    "TensorizeParams": "tensorizing",
    "WeightsParams": "pretrained",
    "TrainParams": "training",
    "EvaluateParams": "evaluation",
    "PlotParams": "plotting",
    "ExportParams": "exporting",
}
RENAMED = {
    "train.schedule": "train.lr_schedule.name",
    "train.label_smoothing": "train.loss.cross_entropy.label_smoothing",
    "train.warmup_fraction": "train.lr_schedule.one_cycle.warmup_fraction",
    "train.cycle_momentum": "train.lr_schedule.one_cycle.cycle_momentum",
    "train.base_momentum": "train.lr_schedule.one_cycle.base_momentum",
    "train.max_momentum": "train.lr_schedule.one_cycle.max_momentum",
    "train.augmentation.group_size": "train.augmentation.images_per_draw",
}
MAX_BYTES = 1 << 16  # the reader takes a second for so much
MAX_PROBLEMS = 5  # shown at once


class MachineParams(Block):
    """How the machine is used; no stage declares it, since no result depends on it."""

    cores: Annotated[int, Field(ge=1, le=64)]
    checkpoint_every: Annotated[int, Field(ge=0, le=10_000)]


class Params(Block):
    """The whole of params.yaml: one block per stage, and one of the machine."""

    download: "DownloadParams"
    tensorize: "TensorizeParams"
    weights: "WeightsParams"
    train: "TrainParams"
    evaluate: "EvaluateParams"
    plot: "PlotParams"
    export: "ExportParams"
    machine: MachineParams


@cache
def schema() -> type[Params]:
    """Return `Params` with the schemas of the blocks, which are imported only now."""
    Params.model_rebuild(
        _types_namespace={
            name: getattr(import_module(f"image_pipeline.{room}.params"), name)
            for name, room in ROOMS.items()
        }
    )
    return Params


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
        return schema().model_validate(raw)
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
        case "extra_forbidden" if key in RENAMED:
            return f"{key}: its name is {RENAMED[key]} now"
        case "extra_forbidden" | "invalid_key":
            return f"{key}: unknown key; remove it or correct its spelling"
        case "missing":
            return f"{key}: missing; add it (the committed params.yaml has it)"
    problem = item["msg"].removeprefix("Value error, ")
    if item["type"] == "string_type" and isinstance(item["input"], (bool, int, float, date)):
        problem += "; put it in quotes"  # YAML takes 2024, 01, true and 2024-01-01 for no text
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
