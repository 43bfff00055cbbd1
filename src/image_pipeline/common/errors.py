"""Errors that a user can meet. Any other exception is a bug.

Every message is one line that names the file, key or address, what is wrong with it, and what to do
about it. `image_pipeline.common.stage.run_stage` prints it without a traceback.
"""


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


class DivergenceError(PipelineError):
    """A training loss that is no longer a finite number."""


class WorkerError(PipelineError):
    """A worker process that ended before its work was done."""


class MachineError(PipelineError):
    """A machine that cannot take part in a run, or a run that lacks machines."""


class LostMachineError(MachineError):
    """Another machine does not answer any more; those that are left can go on without it."""

    exit_code = 75  # as <sysexits.h> has it: a failure after which one tries again


class UnconnectedError(LostMachineError):
    """The machines have met, but cannot connect with each other for the training."""

    exit_code = 77


def one_line(text: object, limit: int = 200) -> str:
    """Return untrusted text, from a file or a server, shortened and on one line, for a message.

    White space becomes one space; unprintable characters, terminal controls included, become `?`.
    """
    words = " ".join(str(text)[: 10 * limit].split())
    shown = words if len(words) <= limit else f"{words[: limit - 3]}..."
    return "".join(character if character.isprintable() else "?" for character in shown)
