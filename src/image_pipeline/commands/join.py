"""Take part in a training that another machine leads, to the bits of one machine.

On the first machine, `dvc repro` with IMAGE_PIPELINE_MACHINES and IMAGE_PIPELINE_ADDRESS set waits
for others and prints the command for them. It is run in a clone with the same code, params and
libraries; the training and validation tensors, where they are not here, are pulled from the DVC
remote or made. Nothing is written here: the first machine has the results (docs/machines.md).

Exit status: 0 when the run is over, 1 where it, or this machine's part, has failed.
"""

import argparse
import os
import subprocess
import sys
from typing import IO

from image_pipeline.commands.first_machine import FirstMachine
from image_pipeline.common import paths
from image_pipeline.common.errors import MachineError, ParamsError
from image_pipeline.common.params import read_params
from image_pipeline.distributed.facts import data_facts, facts_of
from image_pipeline.distributed.lead import DONE, say
from image_pipeline.distributed.part import STAGE
from image_pipeline.distributed.settings import PREFIX, TOKEN, Address, token_of, wait_of

DATA = [paths.TRAIN_TENSORS, paths.VALIDATION_TENSORS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("address", metavar="ADDRESS", help="the first machine's, host:port")


def run(arguments: argparse.Namespace) -> int:
    """Train with the others until the run is over; return the exit status.

    Raises:
        ParamsError: the address or the environment is not what it should be.
        MachineError: this machine cannot take part, or the run has failed.
    """
    address = Address.parse(arguments.address, "ADDRESS")
    token, wait = token_of(os.environ), wait_of(os.environ)
    if token is None:
        raise ParamsError(f"{TOKEN} is missing; the first machine prints the command that has it")
    params = read_params()
    with _only_one_here():
        facts = facts_of(params.train, STAGE)
        first = FirstMachine(address, token, wait, _say)
        first.look(facts)
        _fetch_data()
        outcome = first.take_part(facts | {"data": data_facts(DATA)})
    if outcome != DONE:
        raise MachineError(f"the run of {address} is over: {outcome}")
    _say(f"the run is over; {address} has the results")
    return 0


def _fetch_data() -> None:
    """Pull the tensors from the DVC remote, or make them, where they are not here."""
    if all(path.exists() for path in DATA):
        return
    names = [str(path) for path in DATA]
    _say(f"{' and '.join(names)} are not here: fetching them with `dvc pull`, else making them")
    dvc = [sys.executable, "-m", "dvc"]
    for command in ([*dvc, "pull", "--quiet", *names], [*dvc, "repro", "tensorize"]):
        pull = "pull" in command
        # What a remote lacks, or the lack of one, is no error here: the data can be made.
        quiet = subprocess.DEVNULL if pull else None
        environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        subprocess.run(command, check=False, stdout=quiet, stderr=quiet, env=environment)
        if all(path.exists() for path in DATA):
            return
    raise MachineError(
        f"{' and '.join(names)} cannot be had; run `dvc pull` or `dvc repro tensorize` here, and "
        "join again"
    )


def _only_one_here() -> IO[bytes]:
    """Keep other trainings, and other joins, out of this folder until the file is closed.

    Raises:
        MachineError: there is one.
    """
    script = STAGE.open("rb")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(script, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            script.close()
            raise MachineError(
                "this folder takes part in a training already; join from another clone, or wait"
            ) from None
        except OSError:
            pass  # a network folder without locks
    return script


def _say(line: str) -> None:
    say(f"join: {line}", beside_a_bar=sys.stdout.isatty())
