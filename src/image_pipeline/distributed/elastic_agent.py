"""PyTorch's elastic agent, a process on each host: `python -m ...elastic_agent SETTINGS`.

It meets the agents of the other hosts in PyTorch's rendezvous, whose state is in the coordinator's
store, and starts the worker. When the worker fails because another host is lost, and when a host is
lost or waits to join, the agents hold another rendezvous and restart it.
"""

import json
import logging
import os
import signal
import sys
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous.api import (
    RendezvousError,
    RendezvousInfo,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import RendezvousTimeout

from image_pipeline.distributed import worker
from image_pipeline.distributed.agent_process import TOO_FEW_HOSTS, AgentSettings
from image_pipeline.distributed.elastic_private import Agent, Rendezvous
from image_pipeline.distributed.settings import CHECKPOINT_COUNT, WORKER

KEEP_ALIVE_SECONDS, MAX_MISSED_KEEP_ALIVES = 2, 3  # after so many, a host counts as lost
LAST_CALL_SECONDS = 2  # for more hosts to come once there are enough
MONITOR_SECONDS = 0.2
STORE_TIMEOUT = 60.0
WORKER_SHUTDOWN_SECONDS = 5
EXIT_BARRIER_SECONDS = 10  # for the other agents, when training is done
MAX_RESTARTS = 1 << 30
MAX_FAILED_CONNECTIONS = 3  # rendezvous in a row after which the hosts cannot connect
FOREVER = timedelta(days=365)


class CheckpointRendezvous(Rendezvous):
    """A rendezvous that is repeated at better times than PyTorch's own.

    At once when a host is lost: PyTorch leaves that to the collective that then fails, or waits in
    vain. For hosts that wait to join, only when the coordinator has just saved a checkpoint, so
    that no work is lost and hosts that keep coming and going cannot stop the training's progress.
    """

    worker_settings: dict[str, Any]

    def next_rendezvous(self) -> RendezvousInfo:
        """Hold a rendezvous; pass the worker its settings for this round."""
        info = super().next_rendezvous()
        self._participants = self.hosts
        self._checkpoints: int | None = None  # how many there were when a host began to wait
        self.worker_settings["round"] = f"round {self.round}"
        os.environ[WORKER] = json.dumps(self.worker_settings)
        return info

    def num_nodes_waiting(self) -> int:
        """Return the number of hosts, lost or waiting, that call for another rendezvous."""
        waiting = super().num_nodes_waiting()
        if lost := len(self._participants - self.hosts):
            return lost
        if not waiting or not self.worker_settings["is_coordinator"]:  # the others follow it
            self._checkpoints = None
            return 0
        round_store = PrefixStore(self.worker_settings["round"], self.store)
        checkpoints = round_store.add(CHECKPOINT_COUNT, 0)
        if self._checkpoints is None:
            self._checkpoints = checkpoints
        return waiting if checkpoints > self._checkpoints else 0


class RestartingAgent(Agent):
    """An agent that restarts only a worker that lost another host, or was killed."""

    _failed_connections = 0  # in a row

    def restarts_after(self, status: int) -> bool:
        """Return whether a worker that ended with this exit status is started again."""
        unconnected = status == worker.HOSTS_UNCONNECTED
        self._failed_connections = self._failed_connections + 1 if unconnected else 0
        restart = status < 0 or status == worker.HOST_LOST or unconnected
        return restart and self._failed_connections < MAX_FAILED_CONNECTIONS


def build_agent(settings: AgentSettings) -> RestartingAgent:
    """Return an agent that is connected to the store."""
    is_coordinator = settings.listen_fd is not None
    store = TCPStore(
        "127.0.0.1",
        settings.store_port,
        is_master=is_coordinator,
        wait_for_workers=False,
        master_listen_fd=settings.listen_fd,
        timeout=timedelta(seconds=STORE_TIMEOUT),
    )
    rendezvous = CheckpointRendezvous.from_backend(
        settings.run_id,
        store,
        C10dRendezvousBackend(store, settings.run_id),
        settings.min_hosts,
        settings.max_hosts,
        settings.host,
        RendezvousTimeout(
            # A host that has joined waits as long as the coordinator does.
            join=timedelta(seconds=settings.wait) if is_coordinator else FOREVER,
            last_call=timedelta(seconds=LAST_CALL_SECONDS),
        ),
        keep_alive_interval=KEEP_ALIVE_SECONDS,
        keep_alive_max_attempt=MAX_MISSED_KEEP_ALIVES,
    )
    rendezvous.worker_settings = {
        "store_port": settings.store_port,
        "is_coordinator": is_coordinator,
    }
    spec = WorkerSpec(
        role="train",
        local_world_size=1,
        entrypoint=sys.executable,
        args=("-m", worker.__name__),
        rdzv_handler=rendezvous,
        max_restarts=MAX_RESTARTS,
        monitor_interval=MONITOR_SECONDS,
    )
    return RestartingAgent(
        spec,
        DefaultLogsSpecs(os.devnull),
        exit_barrier_timeout=EXIT_BARRIER_SECONDS,
        shutdown_timeout=WORKER_SHUTDOWN_SECONDS,
    )


def run_agent(settings: AgentSettings) -> int:
    """Train with the other hosts until the run ends; return the agent's exit status."""
    logging.disable(logging.CRITICAL)  # the coordinator reports a lost host, in one line
    try:
        result = build_agent(settings).run()
    except RendezvousTimeoutError:
        return TOO_FEW_HOSTS
    except (RendezvousError, RuntimeError):  # the store is gone
        return worker.HOST_LOST
    if result.is_failed():
        return int(next(iter(result.failures.values())).exitcode)
    return 0


def main() -> None:
    """Run the agent of this process."""
    worker.exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = run_agent(AgentSettings(**json.loads(sys.argv[1])))
    sys.stdout.flush()
    os._exit(status)  # no clean-up: threads may wait for a store that is gone


if __name__ == "__main__":
    main()
