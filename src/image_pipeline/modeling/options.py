"""Options from params.yaml, checked against the signature of what takes them as keyword arguments.

Annotations are enforced, pydantic's constraints included:
`gamma: Annotated[float, Field(gt=0)] = 2.0`.
"""

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.schema import Choice

Result = TypeVar("Result")


def bind_choice(
    key: str, choice: Choice, functions: Mapping[str, Callable[..., Result]]
) -> Callable[..., Result]:
    """Return the chosen function with its options bound.

    Args:
        key: of the choice, such as `params.yaml: train.loss`, for messages.
        choice: the name of a function, and its options.
        functions: to choose from, by name.

    Raises:
        ParamsError: there is no such function, or an option is not allowed.
    """
    check_name(key, choice.name, functions)
    function = functions[choice.name]
    return partial(function, **check_options(f"{key}.{choice.name}", function, choice.options))


def check_name(key: str, name: str, known: Collection[str]) -> None:
    """Raise a ParamsError unless the name of the choice `key` is a known one."""
    if name not in known:
        raise ParamsError(
            f"{key}.name: '{one_line(name, 60)}' is not allowed: it must be {' or '.join(known)}"
        )


def check_options(
    prefix: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options, converted to the types in the function's annotations.

    Args:
        prefix: the options' key in params.yaml, such as `train.model.cnn`, for messages.
        function: or class, that takes two arguments and the options as keyword arguments.
        options: by name, as params.yaml has them.

    Raises:
        ParamsError: an option is unknown, missing or has a value that its annotation rules out.
    """
    parameters = list(inspect.signature(function).parameters.values())[2:]
    taken = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
    if len(taken) == len(parameters) and (unknown := sorted(set(options) - set(taken))):
        known = f"the options are {', '.join(taken)}" if taken else "there are no options"
        raise ParamsError(f"{prefix}.{unknown[0]}: unknown option; {known}")
    required = {one.name for one in parameters if one.name in taken and one.default is one.empty}
    if missing := sorted(required - set(options)):
        raise ParamsError(f"{prefix}.{missing[0]}: missing; this option has no default")
    annotated = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(annotated, include_extras=True)
    checked = dict(options)
    for key in options.keys() & hints.keys():
        try:
            adapter = TypeAdapter(hints[key], config={"arbitrary_types_allowed": True})
            # As JSON, strictly: a list may stand for a tuple, but a string not for a number.
            checked[key] = adapter.validate_json(json.dumps(options[key]), strict=True)
        except ValidationError as error:
            reason = one_line(error.errors(include_url=False)[0]["msg"])
            kind = inspect.formatannotation(get_type_hints(annotated)[key])
            raise ParamsError(
                f"{prefix}.{key}: {one_line(options[key], 60)} is not allowed: "
                f"{reason[:1].lower()}{reason[1:]} ({kind})"
            ) from None
        except (PydanticUserError, TypeError):
            pass  # an annotation that no value from YAML can be checked against
    return checked
