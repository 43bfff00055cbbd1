"""How what is wrong must be refused: in one line that names it, and by nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from image_pipeline.common.errors import DataError, PipelineError

# Of Hypothesis: the same examples each time, and as many as take a second.
quick = settings(derandomize=True, deadline=None, max_examples=200, database=None)


def said_by(
    error: type[BaseException], call: Callable[..., object], *arguments: Any, **named: Any
) -> str:
    """Return the one line of the error that a call ends in."""
    with pytest.raises(error) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert message.isprintable()  # so it is one line, too
    return message


def refusal(path: Path, read: Callable[[Path], object]) -> str:
    """Return what is said of a file that `read` refuses, without its name."""
    message = said_by(DataError, read, path)
    assert message.startswith(f"{path}: ")
    assert len(message) < 500 + len(str(path))
    return message.removeprefix(f"{path}: ")


def valid_or_refused(
    path: Path,
    read: Callable[[], object],
    remedy: str = "",
    error: type[PipelineError] = PipelineError,
    after: str = ": ",
) -> None:
    """Fail where a file is neither read nor refused in one line that names it, and the remedy.

    `error` is of the class of what may be raised, and `after` comes after the file's name.
    """
    try:
        read()
    except error as caught:
        message = str(caught)
    else:
        return
    assert message.startswith(f"{path}{after}")
    assert message.isprintable()
    assert remedy in message


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 8) -> bytes:
    """Return the content with up to `most` bytes at any place replaced by others."""
    start = draw(st.integers(0, len(content)))
    end = start + draw(st.integers(0, most))
    return content[:start] + draw(st.binary(max_size=most)) + content[end:]
