"""The hosts that train one model together. Here: one. `distributed` has the group of several."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.process_group import ProcessGroup

# Seconds to wait for another host at an epoch's first step and in validation: rank 0 saves a
# checkpoint and draws curves in between.
LONG_TIMEOUT = 120.0


class HostGroup(ProcessGroup):
    """A single host. Several are a subclass, whose rank 0 is the coordinator."""

    @property
    def traffic(self) -> str:
        """What has crossed the network, for the progress bar; empty for a single host."""
        return ""

    def checkpoint(self, folder: Path, key: str) -> CheckpointFile:
        """Return the checkpoint that all hosts resume from, and that rank 0 saves to."""
        return CheckpointFile(folder, key)

    def init_process_group(self) -> None:
        """Connect to the other hosts. It starts threads, so no process may fork afterwards."""

    def all_gather(
        self, tensors: Sequence[Tensor], *, timeout: float | None = None
    ) -> list[list[Tensor]]:
        """Return the tensors of every host, by rank.

        Args:
            tensors: of the same number, shapes and dtypes on all hosts.
            timeout: seconds to wait for other hosts; None for a multiple of the slowest step.

        Returns:
            Tensors that the next call with such shapes overwrites.
        """
        del timeout
        return [list(tensors)]

    def barrier(self) -> None:
        """On rank 0, announce that the results are written; on others, wait for that."""
