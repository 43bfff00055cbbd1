"""Search spaces, recipes/spaces/<name>.yaml, as Optuna's distributions."""

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
from optuna.trial import create_trial
from ruamel.yaml import YAML

from image_pipeline.common import paths
from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.params import check_params
from image_pipeline.experiments.changes import flatten
from image_pipeline.experiments.named_yaml import NamedYaml

SPACES = NamedYaml("space", Path("recipes/spaces"))
RANGE_KEYS = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class SearchSpace:
    """The params that a search varies.

    Attributes:
        path: of the file.
        text: its content.
        distributions: by dotted key of params.yaml.
    """

    path: Path
    text: str
    distributions: dict[str, BaseDistribution]


def read_space(name: str) -> SearchSpace:
    """Read a search space, and check its bounds against the schema of params.yaml.

    Raises:
        ParamsError: there is no such space, it is not valid YAML, a key is not in params.yaml, or a
            value is not allowed there.
    """
    path = SPACES.path(name)
    values = SPACES.read(name)
    if not isinstance(values, dict) or not values:
        raise ParamsError(f"{path}: it must have a line for each key of params.yaml to vary")
    distributions = {str(key): _distribution(path, key, values[key]) for key in values}
    space = SearchSpace(path, path.read_text(encoding="utf-8"), distributions)
    for edge in (0, -1):
        check_params(_params_at_edge(space, edge), path)
    return space


def from_study(value: object) -> Any:
    """Convert a value of an Optuna study, which keeps lists as JSON, to one of params.yaml."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def to_study(value: object) -> Any:
    """Convert a value of params.yaml to one of an Optuna study."""
    return json.dumps(value) if isinstance(value, list) else value


def current_values(space: SearchSpace) -> dict[str, Any] | None:
    """Return the values in params.yaml, for a study; None if one is outside the space."""
    params = flatten(YAML(typ="safe").load(paths.PARAMS))
    found = {key: to_study(params[key]) for key in space.distributions}
    try:
        create_trial(params=found, distributions=space.distributions, value=0)
    except ValueError:
        return None
    return found


def _distribution(path: Path, key: str, value: object) -> BaseDistribution:
    if isinstance(value, list) and value:
        return CategoricalDistribution([to_study(choice) for choice in value])
    if not isinstance(value, Mapping) or not {"low", "high"} <= value.keys() <= RANGE_KEYS:
        raise ParamsError(
            f"{path}: {key}: it must be a list of choices, or low and high (and log or step)"
        )
    log = value.get("log", False)
    try:
        if all(isinstance(value[edge], int) for edge in ("low", "high")):
            return IntDistribution(value["low"], value["high"], log, value.get("step", 1))
        return FloatDistribution(float(value["low"]), float(value["high"]), log, value.get("step"))
    except (TypeError, ValueError) as error:
        raise ParamsError(f"{path}: {key}: {one_line(error)}") from None


def _params_at_edge(space: SearchSpace, edge: int) -> dict[str, Any]:
    """Return params.yaml with the first (0) or the last (-1) value of every varied key."""
    params: dict[str, Any] = YAML(typ="safe").load(paths.PARAMS)
    for key, distribution in space.distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            value = from_study(distribution.choices[edge])
        else:
            value = distribution.high if edge else distribution.low  # type: ignore[attr-defined]
        *blocks, last = key.split(".")
        block: Any = params
        for name in blocks:
            block = block.get(name) if isinstance(block, dict) else None
        if not isinstance(block, dict) or last not in block:
            raise ParamsError(
                f"{space.path}: {key}: params.yaml has no such key; give it a value there"
            )
        block[last] = value
    return params
