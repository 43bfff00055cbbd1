"""What the schemas of params.yaml share; each block's is in `params.py` of its stage's room."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PACKAGE = Path(__file__).parents[1]
MAX_SEED = 2**32 - 1
MAX_OPTIONS = 64  # of a network, an optimizer and so on, and values in one of them

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Bits = Literal[8, 10, 12, 14, 16]  # of the values in a 16-bit image
Fit = Literal["pad", "crop"]  # of an image into a square: all of it and a border, or its centre


class Block(BaseModel):
    """A block of params.yaml: typed, frozen, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def names_in(folder: str) -> list[str]:
    """Return the names of the modules in a folder of this package."""
    return sorted(path.stem for path in (PACKAGE / folder).glob("[a-z]*.py"))


def file_name(folder: str) -> AfterValidator:
    """Return a check that a value names a module in a folder of this package."""

    def check(name: str) -> str:
        if name not in names_in(folder):
            raise ValueError(f"it must be {' or '.join(names_in(folder))}")
        return name

    return AfterValidator(check)


def _options(block: object) -> object:
    """Refuse what cannot be keyword arguments."""

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


class Choice(BaseModel):
    """A name, and blocks of options by name, of which only the chosen one is used."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_options)]]

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The options of what is chosen; none where it has no block."""
        return dict((self.__pydantic_extra__ or {}).get(self.name, {}))
