"""However many machines and processes train: the bits of one. Machines are processes here."""

import hashlib
import io
import json
import multiprocessing
import os
import signal
import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dropped
import numpy as np
import pytest
import torch
from torch import distributed

from image_pipeline.common.errors import LostMachineError, MachineError
from image_pipeline.common.params import read_params
from image_pipeline.distributed import exchange
from image_pipeline.distributed.exchange import Exchange, Parcel, Together
from image_pipeline.models import mlp
from image_pipeline.tensors.tensor_files import DatasetInfo, Split
from image_pipeline.training import lanes
from image_pipeline.training.loop import Training
from image_pipeline.training.params import TrainParams
from project import ROOT

COMMITTED = read_params(ROOT / "params.yaml")
KEY = "k" * 64
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "mlp": {"hidden_sizes": [6]}},
    "cnn": {"name": "cnn", "cnn": {"filters": [3], "hidden_sizes": []}},
    "resnet": {"name": "resnet", "resnet": {"stem_filters": 4, "filters": [4, 8], "window": 6}},
    "dropout": {"name": "mlp", "mlp": {}},
}
EPOCHS = 3
SECONDS = 15.0  # for a process to answer


@pytest.fixture(autouse=True)
def small_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch of 32 images have eight lanes, and the last of 16 four."""
    monkeypatch.setattr(lanes, "LANE_BYTES", 4 * 144 * 4)
    monkeypatch.setattr(lanes, "MIN_GHOST_BATCH_SIZE", 4)
    monkeypatch.setattr("image_pipeline.training.loop.available_cores", lambda: 8)
    monkeypatch.setattr("image_pipeline.training.loop.BATCH_IMAGES", 4)


def make_split(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (count, 1, 12, 12), np.uint8))
    labels = torch.from_numpy(rng.integers(0, 3, count))
    return Split(images, labels, DatasetInfo("toy", ("a", "b", "c"), (0.5,), (0.29,)))


def make_training(network: str, processes: int, together: Exchange) -> Training:
    changes = {"model": NETWORKS[network], "epochs": EPOCHS, "batch_size": 32}
    params = TrainParams.model_validate(COMMITTED.train.model_dump() | changes)
    machine = COMMITTED.machine.model_copy(update={"cores": processes})
    return Training(make_split(80, 0), make_split(21, 1), params, machine, together)


def train(
    network: str, processes: int, together: Exchange, folder: Path, stop_after: int = EPOCHS
) -> dict[str, Any]:
    """Train; return what must be the same."""
    torch.set_num_threads(1)
    training = make_training(network, processes, together)
    for history in training.run(together.checkpoint(folder, KEY)):
        if len(history) == stop_after:
            break
    saved = io.BytesIO()
    torch.save(training.model.state_dict(), saved)
    return {
        "model": hashlib.sha256(saved.getvalue()).hexdigest(),
        "history": [vars(record) for record in training.history],
        "logits": training._largest_logits.tolist(),
    }


def machine_of(rank: int, machines: int, port: int, first: int, round_: int = 0) -> Together:
    """Return the exchange of a machine as the agent would prepare it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(machines), "GLOO_SOCKET_IFNAME": "lo"}
    return Together({"store": port, "round": f"round {round_}", "first": rank == first})


@pytest.fixture
def store() -> distributed.TCPStore:  # type: ignore[name-defined]
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    return distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
        timeout=timedelta(seconds=60),
    )


def on_machines(
    machines: int, work: Callable[[int], object], answers: int | None = None
) -> list[Any]:
    """Have a process for each machine work; return what they, or so many, return, by rank."""
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe() for _ in range(machines)]

    def run(rank: int, end: Connection) -> None:
        try:
            result = work(rank)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        end.send(json.dumps(result))
        os._exit(0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside the store's thread
        processes = [
            context.Process(target=run, args=(rank, end)) for rank, (_, end) in enumerate(ends)
        ]
        for process in processes:
            process.start()
    for _, end in ends:
        end.close()  # so that one that ends without a result is seen
    results: list[Any] = []
    for end, _ in ends[:answers]:
        try:
            results.append(json.loads(end.recv()) if end.poll(SECONDS) else "no answer")
        except EOFError:
            results.append("ended")
    for process in processes:
        process.kill()
        process.join()
    return results


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Return a function that trains a network on one machine, once."""
    known: dict[str, dict[str, Any]] = {}

    def of(network: str) -> dict[str, Any]:
        if network not in known:
            folder = tmp_path_factory.mktemp("alone")
            known[network] = train(network, 1, Exchange(), folder)
        return known[network]

    return of


@pytest.mark.parametrize(
    ("network", "machines", "processes"),
    [
        *(("mlp", machines, processes) for machines in (2, 3, 4, 5) for processes in (1, 2)),
        ("mlp", 9, 1),  # one has no lane
        *((network, 2, 2) for network in ("cnn", "resnet", "dropout")),
        *((network, 3, 1) for network in ("cnn", "resnet", "dropout")),
        ("dropout", 5, 1),
    ],
)
def test_the_bits_of_one_machine(
    network: str,
    machines: int,
    processes: int,
    alone: Callable[[str], dict[str, Any]],
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if network == "dropout":
        monkeypatch.setattr(mlp, "Model", dropped.Model)
    expected = alone(network)

    def work(rank: int) -> object:
        together = machine_of(rank, machines, store.port, first=machines - 1)
        return train(network, processes, together, tmp_path)

    assert on_machines(machines, work) == [expected] * machines


@pytest.mark.parametrize("numbers", [(1, 3, 2), (3, 1, 4)])
def test_machines_that_come_and_go(
    numbers: tuple[int, ...],
    alone: Callable[[str], dict[str, Any]],
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first machine's checkpoint is what the next round begins with, on all of them."""
    monkeypatch.setattr(mlp, "Model", dropped.Model)
    expected = alone("dropout")
    for stop_after, machines in enumerate(numbers, start=1):

        def work(rank: int, machines: int = machines, stop_after: int = stop_after) -> object:
            together = machine_of(rank, machines, store.port, 0, round_=stop_after)
            folder = tmp_path / ("first" if not rank else f"other{rank}")
            return train("dropout", 1, together, folder, stop_after + (stop_after < EPOCHS))

        results = on_machines(machines, work)
    assert results == [expected] * numbers[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["first"]  # the others save nothing


def test_another_key_is_not_trained_with(store: Any, tmp_path: Path) -> None:
    def work(rank: int) -> object:
        together = machine_of(rank, 2, store.port, 0)
        return type(together.checkpoint(tmp_path, KEY if not rank else "l" * 64)).__name__

    first, other = on_machines(2, work)
    assert first == "HandedOn"
    said = "MachineError: the code, params or data are not those of the first machine any more"
    assert other["error"].startswith(said)


def test_machines_with_other_weights_are_told(store: Any) -> None:
    def work(rank: int) -> object:
        together = machine_of(rank, 2, store.port, 0)
        together.hand_on(None)
        together.meet()
        together.agree(b"%32d" % 1, 1)
        together.agree(b"%32d" % rank, 2)
        return "agreed"

    results = on_machines(2, work)
    said = "MachineError: after epoch 2 1 of 2 machines have other weights than the first"
    assert all(result["error"].startswith(said) for result in results)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_machine_that_ends_or_stands_still_is_noticed(
    fault: signal.Signals, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PATIENCE", 1.0)

    def work(rank: int) -> object:
        together = machine_of(rank, 3, store.port, 0)
        together.hand_on(None)
        together.meet()
        tensors = [torch.full((5,), rank)]
        for _ in range(3):
            told = together.gather(tensors, patient=False)
        assert [int(told[machine][0][0]) for machine in range(3)] == [0, 1, 2]
        if rank == 2:
            os.kill(os.getpid(), fault)
        together.gather(tensors, patient=False)
        return "gathered"

    for result in on_machines(3, work, answers=2):
        assert result["error"].startswith(f"{LostMachineError.__name__}: another machine is lost (")


def test_a_parcel_holds_tensors_of_any_kind_side_by_side() -> None:
    tensors = [
        torch.tensor([1.5, -0.0]),
        torch.tensor([True, False, True]),
        torch.tensor(7),
        torch.zeros(0),
        torch.tensor([[2.0**53 + 1, float("nan")]], dtype=torch.float64),
    ]
    parcel = Parcel(tuple((tensor.shape, tensor.dtype) for tensor in tensors), machines=2)
    parcel.fill(tensors)
    parcel.rows[1] = parcel.row
    for theirs, ours in zip(parcel.told[1], tensors, strict=True):
        assert theirs.dtype == ours.dtype
        assert torch.equal(theirs.nan_to_num(), ours.nan_to_num())
    assert parcel.row.nbytes == 4 * exchange.ALIGNED


def test_alone_nothing_crosses() -> None:
    tensors = [torch.ones(2)]
    assert Exchange().gather(tensors, patient=False) == [tensors]
    assert Exchange().traffic == ""
    assert MachineError.exit_code == 1
