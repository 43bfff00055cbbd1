"""Options from params.yaml against the signature of the function that takes them."""

from collections.abc import Sequence
from typing import Annotated

import pytest
from pydantic import Field

from image_pipeline.common.errors import ParamsError
from image_pipeline.modeling.options import check_options
from refusals import said_by


def focal(
    logits: object,
    targets: object,
    *,
    sizes: Sequence[int],
    gamma: Annotated[float, Field(gt=0, lt=5)] = 2.0,
) -> None:
    """Take two tensors and two options."""


def test_values_get_the_types_of_the_annotations() -> None:
    checked = check_options("train.loss.focal", focal, {"sizes": [1, 2], "gamma": 1})
    assert checked == {"sizes": [1, 2], "gamma": 1.0}
    assert isinstance(checked["gamma"], float)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gama": 1}, "train.loss.focal.gama: unknown option; the options are sizes, gamma"),
        ({"logits": 1}, "train.loss.focal.logits: unknown option; the options are sizes, gamma"),
        ({"gamma": 1}, "train.loss.focal.sizes: missing; this option has no default"),
        (
            {"sizes": [], "gamma": 5},
            "train.loss.focal.gamma: 5 is not allowed: input should be less than 5 (float)",
        ),
        (
            {"sizes": ["3"]},
            "train.loss.focal.sizes: ['3'] is not allowed: input should be a valid integer "
            "(collections.abc.Sequence[int])",
        ),
    ],
)
def test_options_that_the_signature_rules_out(options: dict[str, object], message: str) -> None:
    assert said_by(ParamsError, check_options, "train.loss.focal", focal, options) == message


def test_a_function_may_take_any_option() -> None:
    def anything(logits: object, targets: object, **options: object) -> None:
        """Take every option."""

    assert check_options("train.loss.anything", anything, {"a": "b"}) == {"a": "b"}


def test_a_function_without_options() -> None:
    def constant(optimizer: object, steps: int) -> None:
        """Take two positional arguments."""

    with pytest.raises(ParamsError, match=r"rate: unknown option; there are no options$"):
        check_options("train.x", constant, {"rate": 1})
