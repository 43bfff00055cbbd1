"""The process that trains on one of several hosts: the train stage itself, run by the agent.

Every host runs it; the coordinator's alone writes results. Exit status: that of a stage, or that of
a `HostLostError`, after which the agent starts it again.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path

from image_pipeline.common.errors import HostConnectionError, HostLostError
from image_pipeline.common.stage import explain_failures

STAGE = Path("stages/train.py")
HOST_LOST = HostLostError.exit_code
HOSTS_UNCONNECTED = HostConnectionError.exit_code


def exit_with_parent() -> None:
    """End this process when its standard input is closed: with its parent, however that ends."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(HOST_LOST)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Run the train stage once."""
    exit_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from the agent, which restarts this process
    stage = runpy.run_path(str(STAGE))

    def train() -> None:
        try:
            stage["main"]()
        except HostLostError as error:
            print(f"train: {error}; rejoining the others", flush=True)
            os._exit(error.exit_code)  # no clean-up: the remaining connections would hang

    explain_failures("train", train)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # for the same reason


if __name__ == "__main__":
    main()
