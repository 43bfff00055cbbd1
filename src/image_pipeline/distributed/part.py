"""The process that trains on a machine beside others: the train stage itself, run by the agent.

Every machine runs it; the first one alone writes results. Exit status: 0, that of a stage, or that
of a `LostMachineError`, upon which the agents meet again.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path

from image_pipeline.common.errors import LostMachineError, UnconnectedError
from image_pipeline.common.stage import explain_failures

STAGE = Path("stages/train.py")
LOST = LostMachineError.exit_code
UNCONNECTED = UnconnectedError.exit_code


def end_with_input() -> None:
    """Have this process end at once when the one that has started it does, however that ends."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(LOST)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Train with the others, once."""
    end_with_input()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # of the agent, which starts this anew
    stage = runpy.run_path(str(STAGE))

    def train() -> None:
        try:
            stage["main"]()
        except LostMachineError as error:
            print(f"train: {error}; meeting the others again", flush=True)
            os._exit(error.exit_code)  # not by way of the connections that are left, which hang

    explain_failures("train", train)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the same: what is left is to take the connections down


if __name__ == "__main__":
    main()
