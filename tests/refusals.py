"""How a bad file must be refused: in one line that names it, and by nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from image_pipeline.common.errors import DataError, PipelineError


def refusal(path: Path, read: Callable[[Path], object]) -> str:
    """Return what is said of a file that `read` refuses, without its name."""
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()  # so it is one line, too
    assert len(message) < 500 + len(str(path))
    return message.removeprefix(f"{path}: ")


def valid_or_refused(path: Path, read: Callable[[], object], remedy: str = "") -> None:
    """Fail where a file is neither read nor refused in one line that names it, and the remedy."""
    try:
        read()
    except PipelineError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert remedy in message
