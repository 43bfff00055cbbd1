"""What a user can do wrong, or a machine can do to a user, as exceptions.

Every message is one line that names the file, key or address, what is wrong with it, and what to do
about it. `image_pipeline.common.stage.run_stage` prints it without a traceback.
"""


class PipelineError(Exception):
    """A run that cannot go on, through no fault of the code."""

    exit_code = 1


class ParamsError(PipelineError):
    """A key or a value in params.yaml that is not allowed."""

    exit_code = 2


class NetworkError(PipelineError):
    """A network that there is not, or that its options, images or file do not make."""

    exit_code = 2


class DownloadError(PipelineError):
    """A file that no mirror delivered whole and unaltered."""


class DataError(PipelineError):
    """A file that is not what its name promises."""


class ExportError(PipelineError):
    """A network that cannot be written as an ONNX file, or not truly."""


class DivergenceError(PipelineError):
    """A training loss that is no longer a finite number."""


class WorkerError(PipelineError):
    """A process that computed for this one and ended before its work was done."""


class MachineError(PipelineError):
    """A machine that cannot take part in a run, or a run that lacks machines."""


class LostMachineError(MachineError):
    """Another machine does not answer any more; those that are left can go on without it."""

    exit_code = 75  # as <sysexits.h> has it: a failure after which one tries again


class UnconnectedError(LostMachineError):
    """The machines have met, but cannot connect with each other for the training."""

    exit_code = 77


def one_line(text: object, limit: int = 200) -> str:
    """Return words from a file or a server so that they cannot break or flood a message's line.

    White space becomes one space; what does not print, terminal controls included, a question mark.
    """
    words = " ".join(str(text)[: 10 * limit].split())
    shown = words if len(words) <= limit else f"{words[: limit - 3]}..."
    return "".join(character if character.isprintable() else "?" for character in shown)
