"""Take part in a training run that another machine coordinates; its results have the same bits.

On the coordinator, `dvc repro` with IMAGE_PIPELINE_MACHINES and IMAGE_PIPELINE_ADDRESS set waits
for other machines and prints the command to run there, in a clone with the same code, params and
libraries. If the training and validation tensors or the pretrained weights are missing, they are
pulled from the DVC remote or made. No results are written here: the coordinator has them
(docs/machines.md).

Exit status: 0 when the run is over, 1 if it fails, here or on the coordinator.
"""

import argparse
import os
import subprocess
import sys

from image_pipeline.common import paths
from image_pipeline.common.errors import HostError, ParamsError
from image_pipeline.common.locks import lock
from image_pipeline.common.params import read_params
from image_pipeline.distributed.coordinator import DONE, print_line
from image_pipeline.distributed.coordinator_client import CoordinatorClient
from image_pipeline.distributed.fingerprint import data_fingerprint, environment_fingerprint
from image_pipeline.distributed.settings import PREFIX, TOKEN, Address, read_token, read_wait
from image_pipeline.distributed.worker import STAGE

DATA = (paths.TRAIN_TENSORS, paths.VALIDATION_TENSORS, paths.WEIGHTS)
REPRO = ("repro", "tensorize", "weights")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("address", metavar="ADDRESS", help="the coordinator's, host:port")


def run(arguments: argparse.Namespace) -> int:
    """Train with the others until the run is over; return the exit status.

    Raises:
        ParamsError: the address or an environment variable has a wrong value.
        HostError: this machine cannot take part, or the run failed.
    """
    address = Address.parse(arguments.address, "ADDRESS")
    token, wait = read_token(), read_wait()
    if token is None:
        raise ParamsError(f"{TOKEN} is missing; run the command that the coordinator prints")
    params = read_params()
    script = lock(STAGE)
    if not script:
        raise HostError(
            "this folder already takes part in a training run; join from another clone, or wait"
        )
    with script:
        fingerprint = environment_fingerprint(params.train, STAGE)
        coordinator = CoordinatorClient(address, token, wait, _print)
        coordinator.check(fingerprint)
        _fetch_data()
        outcome = coordinator.train(fingerprint | {"data": data_fingerprint(paths.training_data())})
    if outcome != DONE:
        raise HostError(f"the run of {address} is over: {outcome}")
    _print(f"the run is over; {address} has the results")
    return 0


def _fetch_data() -> None:
    """Pull tensors and weights from the DVC remote, or make them, if any are missing."""
    if all(path.exists() for path in DATA):
        return
    names = [str(path) for path in DATA]
    missing, repro = " or ".join(names), f"dvc {' '.join(REPRO)}"
    _print(f"{missing} is missing: trying `dvc pull`, then `{repro}`")
    dvc = [sys.executable, "-m", "dvc"]
    for command in ([*dvc, "pull", "--quiet", *names], [*dvc, *REPRO]):
        # An incomplete remote, or none, is no error: the data can be made.
        output = subprocess.DEVNULL if "pull" in command else None
        environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        subprocess.run(command, check=False, stdout=output, stderr=output, env=environment)
        if all(path.exists() for path in DATA):
            return
    raise HostError(
        f"{missing} could be neither pulled nor made; run `dvc pull` or `{repro}` here, then join "
        "again"
    )


def _print(line: str) -> None:
    print_line(f"join: {line}", over_progress_bar=sys.stdout.isatty())
