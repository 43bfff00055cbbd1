"""What a search may change: recipes/spaces/<name>.yaml, as Optuna's distributions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.params import check_params
from image_pipeline.experiments.changes import flat

FOLDER = Path("recipes/spaces")
RANGE = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Space:
    """What may vary.

    Attributes:
        path: of the file.
        text: its content.
        distributions: by key of params.yaml.
    """

    path: Path
    text: str
    distributions: dict[str, BaseDistribution]


def names() -> list[str]:
    """Return the spaces there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def headline(name: str) -> str:
    """Return what a space says of itself in its first line."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return lines[0].removeprefix("# ") if lines else ""


def read_space(name: str) -> Space:
    """Read a space, and hold its bounds against what params.yaml allows.

    Raises:
        ParamsError: there is none of this name, it is no YAML, a key is not one of params.yaml, or
            a value is not allowed.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in names():
        raise ParamsError(
            f"there is no space `{one_line(name, 60)}` in {FOLDER.resolve()}; there are "
            f"{', '.join(names()) or 'none: run from the root of the project'}"
        )
    text = path.read_text(encoding="utf-8")
    try:
        values = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {one_line(error)}") from None
    if not isinstance(values, dict) or not values:
        raise ParamsError(f"{path}: it must have a line for each key of params.yaml that may vary")
    space = Space(path, text, {str(key): _distribution(path, key, values[key]) for key in values})
    for edge in (0, -1):
        check_params(_with_edges(space, edge), path)
    return space


def in_params(value: object) -> Any:
    """Return what a suggested value stands for: lists are kept as JSON in a study."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def in_study(value: object) -> Any:
    """Return a value of params.yaml as a study keeps it."""
    return json.dumps(value) if isinstance(value, list) else value


def present(space: Space) -> dict[str, Any] | None:
    """Return the values of params.yaml, as a study keeps them; None if one is out of the space."""
    params = flat(YAML(typ="safe").load(paths.PARAMS))
    found = {key: in_study(params[key]) for key in space.distributions}
    inside = all(
        distribution._contains(distribution.to_internal_repr(found[key]))
        if not isinstance(distribution, CategoricalDistribution)
        else found[key] in distribution.choices
        for key, distribution in space.distributions.items()
    )
    return found if inside else None


def _distribution(path: Path, key: str, value: object) -> BaseDistribution:
    if isinstance(value, list) and value:
        return CategoricalDistribution([in_study(choice) for choice in value])
    if not isinstance(value, Mapping) or not {"low", "high"} <= value.keys() <= RANGE:
        raise ParamsError(
            f"{path}: {key}: it must be a list to choose from, or low and high (and log or step)"
        )
    whole = all(isinstance(value[edge], int) for edge in ("low", "high"))
    try:
        if whole:
            return IntDistribution(
                value["low"], value["high"], log=value.get("log", False), step=value.get("step", 1)
            )
        return FloatDistribution(
            float(value["low"]),
            float(value["high"]),
            log=value.get("log", False),
            step=value.get("step"),
        )
    except (TypeError, ValueError) as error:
        raise ParamsError(f"{path}: {key}: {one_line(error)}") from None


def _with_edges(space: Space, edge: int) -> dict[str, Any]:
    """Return params.yaml with the first or the last value of everything that may vary."""
    params = YAML(typ="safe").load(paths.PARAMS)
    for key, distribution in space.distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            value = in_params(distribution.choices[edge])
        else:
            value = distribution.high if edge else distribution.low  # type: ignore[attr-defined]
        *blocks, last = key.split(".")
        block = params
        for name in blocks:
            block = block.get(name) if isinstance(block, dict) else None
        if not isinstance(block, dict) or last not in block:
            raise ParamsError(
                f"{space.path}: {key}: params.yaml has no such key; give it a value there"
            )
        block[last] = value
    found: dict[str, Any] = params
    return found
