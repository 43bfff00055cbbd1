"""Collective operations between the workers of several hosts, on PyTorch's gloo backend.

Only all-gathers, no reductions: what is sent arrives with its bits, and every host adds up partial
sums in the tree's order. `torch.distributed` is imported only if there are other hosts.
"""

import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from image_pipeline.common.errors import HostConnectionError, HostError, HostLostError, one_line
from image_pipeline.distributed.settings import CHECKPOINT_COUNT, WORKER
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.host_group import LONG_TIMEOUT, HostGroup

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

ALIGNMENT = 64  # bytes; of each tensor in a buffer
# Seconds. A host that is gone or frozen is noticed by the agents at any time, whatever these are.
CONNECT_TIMEOUT = 60.0  # until all workers have loaded their data and are connected
MIN_STEP_TIMEOUT = 8.0
RESULTS_TIMEOUT = 600.0  # for the coordinator to write the results
STEP_TIMEOUT_FACTOR = 4  # times the slowest step so far
STORE_CHUNK_BYTES = 4 << 20  # the store takes values of up to 8 MB

Layout = tuple[tuple[torch.Size, torch.dtype], ...]


def host_group_from_environment() -> HostGroup:
    """Return the group of the hosts that this process trains with.

    Raises:
        HostLostError: the store cannot be reached any more.
    """
    return DistributedGroup(json.loads(os.environ[WORKER])) if WORKER in os.environ else HostGroup()


class DistributedGroup(HostGroup):
    """The workers of one round: from one rendezvous of the agents to the next."""

    def __init__(self, worker_settings: dict[str, Any]) -> None:
        from torch import distributed

        agent_rank = int(os.environ["RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        with translate_peer_errors():
            store = distributed.TCPStore(  # type: ignore[attr-defined]
                "127.0.0.1",
                worker_settings["store_port"],
                timeout=timedelta(seconds=LONG_TIMEOUT),
            )
            self.store: Store = distributed.PrefixStore(  # type: ignore[attr-defined]
                worker_settings["round"], store
            )
            if worker_settings["is_coordinator"]:
                self.store.set("coordinator", str(agent_rank))
            coordinator = int(self.store.get("coordinator"))
        # The rendezvous assigns ranks in any order; the coordinator must be rank 0.
        self.rank = 0 if agent_rank == coordinator else agent_rank + (agent_rank < coordinator)
        self._buffers: dict[Layout, FlatBuffer] = {}
        self._timeout = self._slowest_step = 0.0
        self._last_gather = math.inf
        self._bytes_sent = 0

    @property
    def traffic(self) -> str:
        """See `HostGroup`."""
        if self.world_size == 1:
            return ""
        sent = self._bytes_sent
        size = f"{sent / 1e6:.1f} MB" if sent < 1e9 else f"{sent / 1e9:.2f} GB"
        return f", {self.world_size} machines, {size} each way"

    def checkpoint(self, folder: Path, key: str) -> CheckpointFile:
        """See `HostGroup`.

        Raises:
            HostError: this host's code, params or data have changed since it joined.
        """
        with translate_peer_errors():
            if self.rank == 0:
                self.store.set("key", key)
            same = self.store.get("key").decode() == key
        if not same:
            raise HostError(
                "this machine's code, params or data no longer match the coordinator's; restore "
                "them and join again"
            )
        return BroadcastCheckpoint(folder, key, self)

    def broadcast(self, content: bytes | None) -> bytes | None:
        """Return rank 0's content on every rank; what other ranks pass is ignored."""
        with translate_peer_errors():
            if self.rank:
                count = int(self.store.get("chunks"))
                return b"".join(self.store.get(f"chunk {i}") for i in range(count)) or None
            content = content or b""
            starts = range(0, len(content), STORE_CHUNK_BYTES)
            for i, start in enumerate(starts):
                chunk: Any = content[start : start + STORE_CHUNK_BYTES]  # the stub wants str
                self.store.set(f"chunk {i}", chunk)
            self.store.set("chunks", str(len(starts)))
            return content or None

    def init_process_group(self) -> None:
        """See `HostGroup`.

        Raises:
            HostConnectionError: the hosts cannot connect to each other.
        """
        from torch import distributed

        self._timeout = CONNECT_TIMEOUT
        with translate_peer_errors(HostConnectionError):
            distributed.init_process_group(
                "gloo",
                store=self.store,
                rank=self.rank,
                world_size=self.world_size,
                timeout=timedelta(seconds=self._timeout),
            )
            if self.rank == 0:  # all have received the checkpoint, or they would not be here
                for i in range(int(self.store.get("chunks"))):
                    self.store.delete_key(f"chunk {i}")

    def all_gather(
        self, tensors: Sequence[Tensor], *, timeout: float | None = None
    ) -> list[list[Tensor]]:
        """See `HostGroup`.

        Raises:
            HostLostError: a host is lost, or too slow.
        """
        from torch import distributed

        layout = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if layout not in self._buffers:
            self._buffers[layout] = FlatBuffer(layout, self.world_size)
        buffer = self._buffers[layout]
        buffer.pack(tensors)
        seconds = timeout or max(MIN_STEP_TIMEOUT, STEP_TIMEOUT_FACTOR * self._slowest_step)
        if seconds != self._timeout:
            distributed.distributed_c10d.set_timeout(timedelta(seconds=seconds))
            self._timeout = seconds
        with translate_peer_errors():
            distributed.all_gather_into_tensor(buffer.gathered.view(-1), buffer.local)
        now = time.monotonic()
        self._slowest_step = max(self._slowest_step, now - self._last_gather)
        self._last_gather = now
        self._bytes_sent += buffer.local.nbytes * (self.world_size - 1)
        return buffer.by_rank

    def barrier(self) -> None:
        """See `HostGroup`."""
        if self.rank:
            with translate_peer_errors():
                self.store.wait(["written"], timedelta(seconds=RESULTS_TIMEOUT))
        else:
            with suppress(RuntimeError):  # a host that is lost now is no longer needed
                self.store.set("written", "")


class FlatBuffer:
    """Memory for an all-gather of tensors of any shapes and dtypes, as one row of bytes per rank.

    Attributes:
        local: uint8 `[N]`, what this rank sends.
        gathered: uint8 `[world_size, N]`, what it receives.
        by_rank: views of each row of `gathered` as tensors.
    """

    def __init__(self, layout: Layout, world_size: int) -> None:
        sizes = [shape.numel() * dtype.itemsize for shape, dtype in layout]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        self.local = torch.zeros(starts[-1], dtype=torch.uint8)
        self.gathered = torch.zeros((world_size, starts[-1]), dtype=torch.uint8)

        def unpack(row: Tensor) -> list[Tensor]:
            return [
                row[start : start + size].view(dtype).view(shape)
                for (shape, dtype), start, size in zip(layout, starts[:-1], sizes, strict=True)
            ]

        self._local_tensors = unpack(self.local)
        self.by_rank = [unpack(row) for row in self.gathered]

    def pack(self, tensors: Sequence[Tensor]) -> None:
        """Copy tensors into `local`."""
        for view, tensor in zip(self._local_tensors, tensors, strict=True):
            view.copy_(tensor)


class BroadcastCheckpoint(CheckpointFile):
    """The coordinator's checkpoint: saved by rank 0, read by all ranks."""

    def __init__(self, folder: Path, key: str, group: DistributedGroup) -> None:
        super().__init__(folder, key)
        self._group = group

    def read(self) -> bytes | None:
        """Return the content of the coordinator's file, or None if there is none."""
        return self._group.broadcast(None if self._group.rank else super().read())

    def save(self, state: Any) -> None:
        """Write the state on the coordinator; do nothing on other hosts."""
        if self._group.rank == 0:
            super().save(state)
            with translate_peer_errors():  # the agent lets hosts that wait join now
                self._group.store.add(CHECKPOINT_COUNT, 1)


@contextmanager
def translate_peer_errors(kind: type[HostLostError] = HostLostError) -> Iterator[None]:
    """Raise one class of error for all that torch raises when other hosts are lost, or too slow."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        detail = one_line(re.sub(r"^\[[^]]*\] |\. This is typically.*", "", str(error)), 120)
        raise kind(f"lost connection to another machine ({detail})") from None
