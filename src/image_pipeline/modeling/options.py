"""Options from params.yaml, checked against the signature of what takes them as keyword arguments.

Annotations are enforced, pydantic's constraints included:
`gamma: Annotated[float, Field(gt=0)] = 2.0`.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from image_pipeline.common.errors import ParamsError, one_line


def check_options(
    prefix: str, function: Callable[..., Any], options: Mapping[str, Any], skip: int
) -> dict[str, Any]:
    """Return the options, converted to the types in the function's annotations.

    Args:
        prefix: the options' key in params.yaml, such as `train.model.cnn`, for messages.
        function: or class, that takes the options as keyword arguments.
        options: by name, as params.yaml has them.
        skip: number of leading parameters that are not options.

    Raises:
        ParamsError: an option is unknown, missing or has a value that its annotation rules out.
    """
    parameters = list(inspect.signature(function).parameters.values())[skip:]
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
