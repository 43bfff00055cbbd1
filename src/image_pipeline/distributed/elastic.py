"""PyTorch's elastic agent and rendezvous, as a run on several machines wants them."""

import json
import logging
import os
import sys
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous.api import (
    RendezvousError,
    RendezvousInfo,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousTimeout,
)

from image_pipeline.distributed import part
from image_pipeline.distributed.agent import TOO_FEW, AgentSettings
from image_pipeline.distributed.settings import PART, SAVED

KEEP_ALIVE_SECONDS, KEEP_ALIVES = 2, 3  # one that has not been heard of for so long counts as lost
LAST_CALL_SECONDS = 2  # for others to come, when there are enough
MONITOR_SECONDS = 0.2
STORE_SECONDS = 60.0  # for an answer of the store
END_SECONDS = 5  # for the process that trains to end when it is told to
BARRIER_SECONDS = 10  # for the other agents, when the training is done
RESTARTS = 1 << 30
MAX_UNCONNECTED = 3  # times that the machines may meet and not connect

FOREVER = timedelta(days=365)


def run(settings: AgentSettings) -> int:
    """Train with the other machines until that is done; return the agent's exit status."""
    logging.disable(logging.CRITICAL)  # a machine that is lost is told in a line, by others
    try:
        result = _agent(settings).run()
    except RendezvousTimeoutError:
        return TOO_FEW
    except (RendezvousError, RuntimeError):  # the store is gone
        return part.LOST
    if result.is_failed():
        return int(next(iter(result.failures.values())).exitcode)
    return 0


def _agent(settings: AgentSettings) -> "Agent":
    first = settings.listening is not None
    store = TCPStore(
        "127.0.0.1",
        settings.store,
        is_master=first,
        wait_for_workers=False,
        master_listen_fd=settings.listening,
        timeout=timedelta(seconds=STORE_SECONDS),
    )
    rendezvous = Rendezvous.from_backend(
        settings.run,
        store,
        C10dRendezvousBackend(store, settings.run),
        settings.least,
        settings.most,
        settings.host,
        RendezvousTimeout(
            # Who has joined waits as long as the first machine does.
            join=timedelta(seconds=settings.wait) if first else FOREVER,
            last_call=timedelta(seconds=LAST_CALL_SECONDS),
        ),
        keep_alive_interval=KEEP_ALIVE_SECONDS,
        keep_alive_max_attempt=KEEP_ALIVES,
    )
    rendezvous.part = {"store": settings.store, "first": first}
    spec = WorkerSpec(
        role="train",
        local_world_size=1,
        entrypoint=sys.executable,
        args=("-m", part.__name__),
        rdzv_handler=rendezvous,
        max_restarts=RESTARTS,
        monitor_interval=MONITOR_SECONDS,
    )
    return Agent(
        spec,
        DefaultLogsSpecs(os.devnull),
        exit_barrier_timeout=BARRIER_SECONDS,
        shutdown_timeout=END_SECONDS,
    )


class Rendezvous(DynamicRendezvousHandler):
    """The rendezvous, which has the agents meet again at better times than PyTorch's own.

    As soon as one of them is lost: PyTorch leaves that to the operation of the training that then
    fails, or waits in vain. And for those that wait to be let in, only when the first machine has
    just saved the state of the training, so that nothing is lost by it, and those that come and go
    all the time do not keep it from getting on.
    """

    part: dict[str, Any]

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet; leave word of the round for the process that trains."""
        found = super().next_rendezvous()
        state = self._state_holder.state
        self._met = set(state.participants)
        self._saved: int | None = None  # states, when those that wait were seen first
        self.part["round"] = f"round {state.round}"
        os.environ[PART] = json.dumps(self.part)
        return found

    def num_nodes_waiting(self) -> int:
        """Return how many machines there is reason to meet again for."""
        waiting = super().num_nodes_waiting()
        if lost := len(self._met - set(self._state_holder.state.participants)):
            return lost
        if not waiting or not self.part["first"]:  # whose leave tells all others
            self._saved = None
            return 0
        saved = PrefixStore(self.part["round"], self._store).add(SAVED, 0)
        if self._saved is None:
            self._saved = saved
        return waiting if saved > self._saved else 0


class Agent(LocalElasticAgent):
    """The agent, which starts anew only what failed for want of another machine, or was killed."""

    _unconnected = 0  # times in a row

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            status = next(iter(result.failures.values())).exitcode
            self._unconnected = self._unconnected + 1 if status == part.UNCONNECTED else 0
            again = status < 0 or status in (part.LOST, part.UNCONNECTED)
            if not again or self._unconnected == MAX_UNCONNECTED:
                self._remaining_restarts = 0
        return result
