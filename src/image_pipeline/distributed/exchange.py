"""What the machines of a run tell each other while they train.

All of them gather all that each has to tell; nothing is added up on the way, so that it has the
bits with which it was sent. `torch.distributed` is loaded only where there are other machines.
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

from image_pipeline.common.errors import (
    LostMachineError,
    MachineError,
    UnconnectedError,
    one_line,
)
from image_pipeline.distributed.settings import PART, SAVED
from image_pipeline.training.checkpoint import CheckpointFile

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

ALIGNED = 64  # bytes; where a tensor begins in what is sent
# Seconds that another machine may stay behind. At the start of an epoch the first one saves and
# draws; that a machine is gone or frozen, its agent notices at any time (see `agent`).
LONG_PATIENCE, PATIENCE = 120.0, 8.0
CONNECT_PATIENCE = 60.0  # until all have made ready what they train, and are connected
STEP_TIMEOUT_FACTOR = 4  # how many times as long as the slowest step so far another one may take
TO_BE_WRITTEN = 600.0  # seconds that the first machine may take to write the results
PIECE = 4 << 20  # bytes of a value in the store, which takes 8 MB

Form = tuple[tuple[torch.Size, torch.dtype], ...]


class Exchange:
    """What `Training` and the train stage ask of the other machines. Here there is none.

    Attributes:
        machine: which one this is; 0 is the first, which alone writes results.
        machines: how many there are.
    """

    machine, machines = 0, 1

    @property
    def traffic(self) -> str:
        """Words for what has crossed the network, to follow others; empty where nothing does."""
        return ""

    def checkpoint(self, folder: Path, key: str) -> CheckpointFile:
        """Return where the state of the run with this key comes from, and is saved."""
        return CheckpointFile(folder, key)

    def meet(self) -> None:
        """Connect with the other machines; no process may be forked from then on."""

    def agree(self, digest: bytes, epoch: int) -> None:
        """Make sure that all machines have come to the same state.

        Raises:
            MachineError: one has another digest.
        """

    def gather(self, tensors: Sequence[Tensor], *, patient: bool) -> list[list[Tensor]]:
        """Tell what this machine has to tell, and return what each has.

        Args:
            tensors: of the same number, shapes and types on all machines.
            patient: whether others may have much more to do before than the last time.

        Returns:
            Tensors of each machine; the next call with such tensors overwrites them.
        """
        del patient
        return [list(tensors)]

    def end(self) -> None:
        """Tell that the results are written, or wait until the first machine has written them."""


def exchange_of_this_process() -> Exchange:
    """Return the exchange that the agent has prepared this process for.

    Raises:
        LostMachineError: the others are not to be reached any more.
    """
    return Together(json.loads(os.environ[PART])) if PART in os.environ else Exchange()


class Together(Exchange):
    """This machine is one of several: PyTorch's agent has started this process for one round."""

    def __init__(self, part: dict[str, Any]) -> None:
        from torch import distributed

        rank, self.machines = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        with _losses_told():
            # `TCPStore` waits by itself until it is answered: the machine's own end of the gate.
            everywhere = distributed.TCPStore(  # type: ignore[attr-defined]
                "127.0.0.1", part["store"], timeout=timedelta(seconds=LONG_PATIENCE)
            )
            self._store: Store = distributed.PrefixStore(  # type: ignore[attr-defined]
                part["round"], everywhere
            )
            if part["first"]:
                self._store.set("first", str(rank))
            first = int(self._store.get("first"))
        # The rendezvous numbers machines as it likes; lane 0 is the first one's.
        self.machine = 0 if rank == first else rank + (rank < first)
        self._parcels: dict[Form, Parcel] = {}
        self._patience = self._slowest = 0.0
        self._last = math.inf
        self._sent = 0

    @property
    def traffic(self) -> str:
        """See `Exchange`."""
        if self.machines == 1:
            return ""
        return f", {self.machines} machines, {_in_words(self._sent)} out and in"

    def checkpoint(self, folder: Path, key: str) -> CheckpointFile:
        """Return the first machine's file, which all begin with; the others save nothing.

        Raises:
            MachineError: this machine's code, params or data have changed since it joined.
        """
        with _losses_told():
            if not self.machine:
                self._store.set("key", key)
            same = self._store.get("key").decode() == key
        if not same:
            raise MachineError(
                "the code, params or data are not those of the first machine any more; bring them "
                "to its state and join again"
            )
        return HandedOn(folder, key, self)

    def hand_on(self, content: bytes | None) -> bytes | None:
        """Give all machines what the first one has.

        Args:
            content: what it has; not asked for on another machine.
        """
        with _losses_told():
            if self.machine:
                count = int(self._store.get("pieces"))
                pieces = [self._store.get(f"piece {number}") for number in range(count)]
                return b"".join(pieces) or None
            content = content or b""
            starts = range(0, len(content), PIECE)
            for number, start in enumerate(starts):
                piece: Any = content[start : start + PIECE]  # bytes, for which the stub has no word
                self._store.set(f"piece {number}", piece)
            self._store.set("pieces", str(len(starts)))
            return content or None

    def tell_saved(self) -> None:
        """Tell this machine's agent that a state is saved: nothing is lost by an end just now."""
        with _losses_told():
            self._store.add(SAVED, 1)

    def meet(self) -> None:
        """See `Exchange`."""
        from torch import distributed

        self._patience = CONNECT_PATIENCE
        with _losses_told(UnconnectedError):
            distributed.init_process_group(
                "gloo",
                store=self._store,
                rank=self.machine,
                world_size=self.machines,
                timeout=timedelta(seconds=self._patience),
            )
            if not self.machine:  # all have taken the state: nobody meets who has not
                for number in range(int(self._store.get("pieces"))):
                    self._store.delete_key(f"piece {number}")

    def agree(self, digest: bytes, epoch: int) -> None:
        """See `Exchange`."""
        told = self.gather([torch.frombuffer(bytearray(digest), dtype=torch.uint8)], patient=True)
        different = [
            machine
            for machine in range(self.machines)
            if told[machine][0].tolist() != told[0][0].tolist()
        ]
        if different:
            raise MachineError(
                f"after epoch {epoch} {len(different)} of {self.machines} machines have other "
                "weights than the first: an operation of this network has other bits on their "
                "processors, or their memory is faulty. Train on machines of one kind"
            )

    def gather(self, tensors: Sequence[Tensor], *, patient: bool) -> list[list[Tensor]]:
        """See `Exchange`."""
        from torch import distributed

        form = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if form not in self._parcels:
            self._parcels[form] = Parcel(form, self.machines)
        parcel = self._parcels[form]
        parcel.fill(tensors)
        self._set_patience(
            LONG_PATIENCE if patient else max(PATIENCE, STEP_TIMEOUT_FACTOR * self._slowest)
        )
        with _losses_told():
            distributed.all_gather_into_tensor(parcel.rows.view(-1), parcel.row)
        now = time.monotonic()
        self._slowest = max(self._slowest, now - self._last)
        self._last = now
        self._sent += parcel.row.nbytes * (self.machines - 1)
        return parcel.told

    def end(self) -> None:
        """See `Exchange`."""
        if self.machine:
            with _losses_told():
                self._store.wait(["written"], timedelta(seconds=TO_BE_WRITTEN))
        else:
            with suppress(RuntimeError):  # whoever is lost now is needed no more
                self._store.set("written", "")

    def _set_patience(self, seconds: float) -> None:
        if seconds != self._patience:
            from torch import distributed

            distributed.distributed_c10d.set_timeout(timedelta(seconds=seconds))
            self._patience = seconds


class Parcel:
    """What a machine tells at a time, side by side in a row of bytes, and the rows of all."""

    def __init__(self, form: Form, machines: int) -> None:
        sizes = [shape.numel() * dtype.itemsize for shape, dtype in form]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // ALIGNED) * ALIGNED)
        self.row = torch.zeros(starts[-1], dtype=torch.uint8)
        self.rows = torch.zeros((machines, starts[-1]), dtype=torch.uint8)

        def tensors_in(row: Tensor) -> list[Tensor]:
            return [
                row[start : start + size].view(dtype).view(shape)
                for (shape, dtype), start, size in zip(form, starts[:-1], sizes, strict=True)
            ]

        self._own = tensors_in(self.row)
        self.told = [tensors_in(row) for row in self.rows]

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Copy what is to be told into this machine's row."""
        for place, tensor in zip(self._own, tensors, strict=True):
            place.copy_(tensor)


class HandedOn(CheckpointFile):
    """The first machine's checkpoint, of which all machines of a round get the content."""

    def __init__(self, folder: Path, key: str, together: Together) -> None:
        super().__init__(folder, key)
        self._together = together

    def read(self) -> bytes | None:
        """Return the first machine's file."""
        return self._together.hand_on(None if self._together.machine else super().read())

    def save(self, state: Any) -> None:
        """Write the state, on the first machine."""
        if not self._together.machine:
            super().save(state)
            self._together.tell_saved()


@contextmanager
def _losses_told(kind: type[LostMachineError] = LostMachineError) -> Iterator[None]:
    """Make one error of all that torch raises when others are gone, or do not answer in time."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        said = one_line(re.sub(r"^\[[^]]*\] |\. This is typically.*", "", str(error)), 120)
        raise kind(f"another machine is lost ({said})") from None


def _in_words(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
