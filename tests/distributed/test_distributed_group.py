"""The same bits on any number of hosts and processes. Here each host is a process."""

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
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dropout_network
import pytest
import torch
from torch import distributed

from image_pipeline.common.errors import HostError, HostLostError
from image_pipeline.distributed import distributed_group
from image_pipeline.distributed.distributed_group import DistributedGroup, FlatBuffer
from image_pipeline.models import mlp
from image_pipeline.pretrained.weights import PretrainedWeights
from image_pipeline.training import microbatching
from image_pipeline.training.host_group import HostGroup
from image_pipeline.training.host_sync import assert_in_sync
from image_pipeline.training.initial_weights import InitialWeights
from toy import FLAT, KEY, choice, make_trainer
from toy import train as train_toy

NETWORKS = {
    "mlp": choice("mlp", hidden_sizes=[6]),
    "cnn": choice("cnn", filters=[3], hidden_sizes=[]),
    "resnet": choice("resnet", stem_filters=4, filters=[4, 8], window=6),
    "dropout": choice("mlp"),
}
TRANSFERS = {  # of `dropout`
    "frozen": choice("frozen"),
    "fine_tune": choice("fine_tune", frozen_epochs=2),
}
EPOCHS = 3
SECONDS = 15.0  # for a process to answer


@pytest.fixture(autouse=True)
def small_microbatches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split a batch of 32 images into eight micro-batches, and the last one of 16 into four."""
    monkeypatch.setattr(microbatching, "MICROBATCH_BYTES", 4 * 144 * 4)
    monkeypatch.setattr(microbatching, "MIN_GHOST_BATCH_SIZE", 4)
    training = "image_pipeline.training"
    monkeypatch.setattr(f"{training}.train.available_cores", lambda: 8)
    monkeypatch.setattr(f"{training}.train.BATCH_IMAGES", 4)
    monkeypatch.setattr(f"{training}.features.BATCH_IMAGES", 4)
    monkeypatch.setattr(f"{training}.features.BATCHES_AT_ONCE", 7)


class AsBuilt(InitialWeights):
    """Stands for weights that others have trained."""

    def load_into(self, *_: Any) -> None:
        """Leave the network's own."""


def train(
    network: str, processes: int, hosts: HostGroup, folder: Path, stop_after: int | None = None
) -> dict[str, Any]:
    """Train; return what must be the same on all hosts."""
    torch.set_num_threads(1)
    changes: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 32, "cores": processes}
    if network in TRANSFERS:
        changes |= {"transfer": TRANSFERS[network], "augmentation": FLAT}
        network = "dropout"
        info = PretrainedWeights("", "", "", "", "", (0.5,), (0.29,))
        changes["weights"] = AsBuilt(info, Path())
    trainer = make_trainer((80, 21), (1, 12, 12), hosts, model=NETWORKS[network], **changes)
    train_toy(trainer, hosts.checkpoint(folder, KEY), stop_after)
    saved = io.BytesIO()
    torch.save(trainer.state.model.state_dict(), saved)
    return {
        "model": hashlib.sha256(saved.getvalue()).hexdigest(),
        "history": [vars(record) for record in trainer.state.history],
        "unverified_ops": trainer.unverified_ops,
    }


def make_group(
    agent_rank: int, world_size: int, port: int, coordinator: int = 0, round_: int = 0
) -> DistributedGroup:
    """Return the group of a worker whose agent has this rank in the rendezvous."""
    ranks = {"RANK": str(agent_rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {**ranks, "GLOO_SOCKET_IFNAME": "lo"}
    facts = {"store_port": port, "round": f"round {round_}"}
    return DistributedGroup({**facts, "is_coordinator": agent_rank == coordinator})


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


def run_on_hosts(
    world_size: int, work: Callable[[int], object], answers: int | None = None
) -> list[Any]:
    """Call `work` in a process per host; return their results, or the first `answers` of them."""
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe() for _ in range(world_size)]

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
        end.close()  # so that a process that ends without a result is noticed
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
    """Return a function that trains a network on one host, once."""
    known: dict[str, dict[str, Any]] = {}

    def of(network: str) -> dict[str, Any]:
        if network not in known:
            folder = tmp_path_factory.mktemp("alone")
            known[network] = train(network, 1, HostGroup(), folder)
        return known[network]

    return of


@pytest.mark.parametrize(
    ("network", "world_size", "processes"),
    [
        *(("mlp", hosts, processes) for hosts in (2, 3, 4, 5) for processes in (1, 2)),
        ("mlp", 9, 1),  # more hosts than micro-batches
        *((network, 2, 2) for network in ("cnn", "resnet", "dropout")),
        *((network, 3, 1) for network in ("cnn", "resnet", "dropout")),
        ("dropout", 5, 1),
        *((transfer, *sizes) for transfer in TRANSFERS for sizes in ((2, 2), (3, 1), (9, 1))),
    ],
)
def test_bits_do_not_depend_on_the_number_of_hosts(
    network: str,
    world_size: int,
    processes: int,
    alone: Callable[[str], dict[str, Any]],
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if network in ("dropout", *TRANSFERS):
        monkeypatch.setattr(mlp, "Model", dropout_network.Model)
    expected = alone(network)

    def work(rank: int) -> object:
        hosts = make_group(rank, world_size, store.port, coordinator=world_size - 1)
        return train(network, processes, hosts, tmp_path)

    assert run_on_hosts(world_size, work) == [expected] * world_size


@pytest.mark.parametrize("network", ["dropout", *TRANSFERS])
@pytest.mark.parametrize("world_sizes", [(1, 3, 2), (3, 1, 4)])
def test_hosts_that_join_and_leave(
    network: str,
    world_sizes: tuple[int, ...],
    alone: Callable[[str], dict[str, Any]],
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All begin the next round with the coordinator's checkpoint, and the features that one has."""
    monkeypatch.setattr(mlp, "Model", dropout_network.Model)
    expected = alone(network)
    for stop_after, world_size in enumerate(world_sizes, start=1):

        def work(rank: int, world_size: int = world_size, stop_after: int = stop_after) -> object:
            hosts = make_group(rank, world_size, store.port, round_=stop_after)
            folder = tmp_path / f"rank{rank}"
            return train(network, 1, hosts, folder, stop_after + (stop_after < EPOCHS))

        results = run_on_hosts(world_size, work)
    assert results == [expected] * world_sizes[-1]
    checkpoints = list(tmp_path.rglob("*.checkpoint"))
    assert [path.parent.name for path in checkpoints] == ["rank0"]  # the others save none
    kept = {path.read_bytes() for path in tmp_path.rglob("*.features")}
    assert len(kept) == (network in TRANSFERS)


def test_host_with_another_key_is_refused(store: Any, tmp_path: Path) -> None:
    def work(rank: int) -> object:
        hosts = make_group(rank, 2, store.port)
        return type(hosts.checkpoint(tmp_path, KEY if not rank else "l" * 64)).__name__

    coordinator, other = run_on_hosts(2, work)
    assert coordinator == "BroadcastCheckpoint"
    message = "HostError: this machine's code, params or data no longer match the coordinator's"
    assert other["error"].startswith(message)


def test_hosts_with_different_weights_are_reported(store: Any) -> None:
    def work(rank: int) -> object:
        hosts = make_group(rank, 2, store.port)
        hosts.broadcast(None)
        hosts.init_process_group()
        for epoch, digest in ((1, b"%32d" % 1), (2, b"%32d" % rank)):
            state: Any = SimpleNamespace(digest=partial(bytes, digest), history=[None] * epoch)
            assert_in_sync(hosts, state)
        return "in sync"

    results = run_on_hosts(2, work)
    message = "HostError: after epoch 2, 1 of 2 machines have other weights than the coordinator"
    assert all(result["error"].startswith(message) for result in results)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_or_frozen_host_is_noticed(
    fault: signal.Signals, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed_group, "MIN_STEP_TIMEOUT", 1.0)

    def work(rank: int) -> object:
        hosts = make_group(rank, 3, store.port)
        hosts.broadcast(None)
        hosts.init_process_group()
        tensors = [torch.full((5,), rank)]
        for _ in range(3):
            gathered = hosts.all_gather(tensors)
        assert [int(received[0]) for [received] in gathered] == [0, 1, 2]
        if rank == 2:
            os.kill(os.getpid(), fault)
        hosts.all_gather(tensors)
        return "gathered"

    for result in run_on_hosts(3, work, answers=2):
        assert result["error"].startswith(
            f"{HostLostError.__name__}: lost connection to another machine ("
        )


def test_flat_buffer_holds_tensors_of_any_shape_and_dtype() -> None:
    tensors = [
        torch.tensor([1.5, -0.0]),
        torch.tensor([True, False, True]),
        torch.tensor(7),
        torch.zeros(0),
        torch.tensor([[2.0**53 + 1, float("nan")]], dtype=torch.float64),
    ]
    buffer = FlatBuffer(tuple((tensor.shape, tensor.dtype) for tensor in tensors), world_size=2)
    buffer.pack(tensors)
    buffer.gathered[1] = buffer.local
    for theirs, ours in zip(buffer.by_rank[1], tensors, strict=True):
        assert theirs.dtype == ours.dtype
        assert torch.equal(theirs.nan_to_num(), ours.nan_to_num())
    assert buffer.local.nbytes == 4 * distributed_group.ALIGNMENT


def test_single_host_sends_nothing() -> None:
    tensors = [torch.ones(2)]
    assert HostGroup().all_gather(tensors) == [tensors]
    assert HostGroup().traffic == ""
    assert HostError.exit_code == 1
