"""Errors that a user can meet. Any other exception is a bug.

Every message is one line that names the file, key or address, what is wrong with it, and what to do
about it. `image_pipeline.common.stage.run_stage` prints it without a traceback.
"""

from pathlib import Path


class PipelineError(Exception):
    """A run that cannot continue, for a reason other than a bug."""

    exit_code = 1


class ParamsError(PipelineError):
    """A key or a value in params.yaml that is not allowed."""

    exit_code = 2


class NetworkError(PipelineError):
    """A network that does not exist, or that its options, images or file do not fit."""

    exit_code = 2


class DownloadError(PipelineError):
    """A file that no mirror delivered with the right checksum."""


class DataError(PipelineError):
    """A file whose content is not what is expected."""


class ExportError(PipelineError):
    """A network that cannot be exported to ONNX, or not with the same results."""


class HostError(PipelineError):
    """A host that cannot take part in a run on several hosts, or too few hosts for it."""


class HostLostError(HostError):
    """A host that no longer answers; the others can resume without it."""

    exit_code = 75  # EX_TEMPFAIL in <sysexits.h>: the user is invited to retry


class HostConnectionError(HostLostError):
    """Hosts that have held a rendezvous, but cannot connect to each other for training."""

    exit_code = 77


def one_line(text: object, limit: int = 200) -> str:
    """Return untrusted text, from a file or a server, shortened and on one line, for a message.

    White space becomes one space; unprintable characters, terminal controls included, become `?`.
    """
    words = " ".join(str(text)[: 10 * limit].split())
    shown = words if len(words) <= limit else f"{words[: limit - 3]}..."
    return "".join(character if character.isprintable() else "?" for character in shown)


def innermost_line(error: BaseException, path: Path) -> int | None:
    """Return the innermost line of a file in an error's traceback; None if it is not in there."""
    import traceback  # takes a while

    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else None
