"""The coordinator's side of a run on several hosts: the server, the agent, and what is printed."""

import os
import queue
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from subprocess import Popen
from typing import Any

from image_pipeline.common import paths
from image_pipeline.common.errors import HostError
from image_pipeline.distributed.agent_process import TOO_FEW_HOSTS, AgentSettings, spawn_agent
from image_pipeline.distributed.fingerprint import data_fingerprint, environment_fingerprint
from image_pipeline.distributed.rendezvous_server import Event, RendezvousServer
from image_pipeline.distributed.settings import (
    MACHINES,
    TOKEN,
    WAIT,
    CoordinatorSettings,
    generate_token,
)
from image_pipeline.distributed.worker import HOST_LOST, HOSTS_UNCONNECTED
from image_pipeline.training.params import TrainParams

DONE = "done"  # the outcome of a run without errors
UNCONNECTED = (
    "the machines cannot connect to each other for training, on ports that PyTorch chooses; make "
    "sure that no firewall is between any two of them"
)
POLL_SECONDS = 0.2
SHORT_RUN_SECONDS, MAX_SHORT_RUNS = 20.0, 3  # an agent that is lost so early so often is given up


def run_coordinator(
    settings: CoordinatorSettings, params: TrainParams, data: Sequence[Path], script: Path
) -> None:
    """Train with the hosts that join; the results are written here.

    Args:
        settings: from the environment variables.
        params: the block `train` of params.yaml.
        data: the files that training reads.
        script: the stage's script.

    Raises:
        HostError: the address cannot be listened on, or there are too few hosts.
        SystemExit: the worker failed, and has printed why.
    """
    fingerprint = environment_fingerprint(params, script) | {"data": data_fingerprint(data)}
    token_file = paths.CHECKPOINTS / "machines.token"
    token = settings.token or generate_token(token_file)
    with closing(RendezvousServer(settings.address, token, fingerprint)) as server:
        _print_instructions(settings, token, fingerprint["commit"])
        status = _run_agents(settings, server)
        if status == TOO_FEW_HOSTS:
            problem = (
                f"too few machines: {server.num_hosts} of at least {settings.min_hosts} after "
                f"waiting {settings.wait} s"
            )
            server.close(problem)
            raise HostError(
                f"{problem}; start the others, lower {MACHINES} (now {os.environ[MACHINES]}) or "
                f"unset it, or raise {WAIT}, then run `dvc repro` again to resume"
            )
        if status == HOSTS_UNCONNECTED:
            server.close(UNCONNECTED)
            raise HostError(UNCONNECTED)
        server.close("training failed on the coordinator" if status else DONE)
    if status:
        raise SystemExit(status)
    token_file.unlink(missing_ok=True)


def _print_instructions(settings: CoordinatorSettings, token: str, commit: str) -> None:
    """Print what to run on the other hosts."""
    least, most = settings.min_hosts - 1, settings.max_hosts - 1
    count = f"{least} to {most}" if 0 < least < most else str(most)
    machines = "machine" if most == 1 else "machines"
    shown_token = "..." if settings.token else token
    at_commit = f" at commit {commit}" if commit else ""
    waiting = f"waiting at {settings.address} for {count} more {machines}, up to {settings.wait} s"
    if not least:
        waiting = f"starting alone; up to {count} more {machines} may join at {settings.address}"
    print_line(
        f"train: {waiting}; on each, run in a clone{at_commit}:\n"
        f"train:   {TOKEN}={shown_token} python -m image_pipeline join {settings.address}"
    )


def _run_agents(settings: CoordinatorSettings, server: RendezvousServer) -> int:
    """Run an agent, and another one if it is killed; return the last one's exit status."""
    attempt = short_runs = 0
    while True:
        start = time.monotonic()
        # The store is the agent's: it listens on the loopback interface and ends with the agent.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            rendezvous: dict[str, Any] = {
                "run_id": f"run {attempt}",
                "min_hosts": settings.min_hosts,
                "max_hosts": settings.max_hosts,
            }
            server.set_rendezvous(rendezvous, listener.getsockname()[1])
            agent_settings = AgentSettings(
                store_port=server.store_port,
                listen_fd=listener.fileno(),
                wait=settings.wait,
                host=server.host,
                **rendezvous,
            )
            with spawn_agent(agent_settings) as agent:
                listener.close()
                status = _report_events(agent, server, settings)
        if status < 0:  # killed by a signal
            status = HOST_LOST
        short_runs = short_runs + 1 if time.monotonic() - start < SHORT_RUN_SECONDS else 0
        if status != HOST_LOST or short_runs == MAX_SHORT_RUNS:
            return status
        server.disconnect_members()  # the store is gone: all join the next agent's
        attempt += 1


def _report_events(
    agent: Popen[bytes], server: RendezvousServer, settings: CoordinatorSettings
) -> int:
    """Print the server's events until the agent ends; return its exit status."""
    while (status := agent.poll()) is None:
        try:
            event = server.events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        print_line(f"train: {_describe(event, server.num_hosts, settings)}", over_progress_bar=True)
    return status


def _describe(event: Event, num_hosts: int, settings: CoordinatorSettings) -> str:
    machines = f"{num_hosts} machine{'s' if num_hosts > 1 else ''}"
    match event.kind:
        case "joined":
            most = settings.max_hosts
            spare = f"; {most} train, the others wait" if num_hosts > most else ""
            return f"{event.host} joined ({machines}{spare})"
        case "refused":
            return f"a machine at {event.host} was refused: {event.reason}"
        case "unauthenticated":
            return f"a connection from {event.host} was refused: {event.reason}"
    if num_hosts < settings.min_hosts:
        return (
            f"lost {event.host}: {machines} left, of at least {settings.min_hosts}; waiting up to "
            f"{settings.wait} s for more"
        )
    return f"lost {event.host}; resuming with {machines} from the last checkpoint"


def print_line(line: str, *, over_progress_bar: bool = False) -> None:
    """Print a line of its own, over the progress bar that another process may draw."""
    start = "" if not over_progress_bar else "\r\x1b[K" if sys.stdout.isatty() else "\n"
    print(f"{start}{line}", flush=True)
