"""Every private member of PyTorch's elastic agent that is used here, with its reason.

It repeats a rendezvous, and restarts a worker, by rules of its own, which have no public settings.
`tests/repository/test_private_members.py` says what an upgrade has taken away.
"""

from abc import abstractmethod
from collections.abc import Set as AbstractSet

from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler


class Rendezvous(DynamicRendezvousHandler):
    """A rendezvous that tells who takes part in it."""

    @property
    def hosts(self) -> AbstractSet[object]:
        """The hosts that take part and are not lost; a lost one is only missing here."""
        return set(self._state_holder.state.participants)

    @property
    def round(self) -> int:
        """The number of the rendezvous, which is the same on all hosts."""
        return int(self._state_holder.state.round)

    @property
    def store(self) -> Store:
        """The store that all hosts share."""
        return self._store


class Agent(LocalElasticAgent):
    """An agent that asks whether a failed worker is started again."""

    @abstractmethod
    def restarts_after(self, status: int) -> bool:
        """Return whether a worker that ended with this exit status is started again."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            status = next(iter(result.failures.values())).exitcode
            if not self.restarts_after(status):
                self._remaining_restarts = 0
        return result
