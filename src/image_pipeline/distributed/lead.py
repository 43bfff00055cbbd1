"""The first machine's side of a run on several machines: the gate, the store, and what is said."""

import itertools
import os
import queue
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from image_pipeline.common import paths
from image_pipeline.common.errors import MachineError
from image_pipeline.distributed.agent import TOO_FEW, Agent, AgentSettings
from image_pipeline.distributed.facts import data_facts, facts_of
from image_pipeline.distributed.gate import Event, Gate
from image_pipeline.distributed.part import LOST, UNCONNECTED
from image_pipeline.distributed.settings import MACHINES, TOKEN, WAIT, KeptToken, Settings
from image_pipeline.training.params import TrainParams

DONE = "done"  # what the others are told of a run that has come to its end
NO_WAY = (
    "the machines cannot connect with each other for the training, for which PyTorch chooses ports "
    "by itself: see that no firewall is between any two of them"
)
POLL_SECONDS = 0.2
SHORT_SECONDS, MAX_SHORT = 20.0, 3  # an agent that ends so early, so often, is not started again


def lead(settings: Settings, params: TrainParams, data: Sequence[Path], script: Path) -> None:
    """Train together with the machines that come, and write the results here.

    Args:
        settings: what the user asks for.
        params: of the training.
        data: the files that the training reads.
        script: the stage's.

    Raises:
        MachineError: the address cannot be listened on, or there are too few machines.
        SystemExit: the training has ended with an error, which it has told by itself.
    """
    facts = facts_of(params, script) | {"data": data_facts(data)}
    kept = KeptToken(paths.CHECKPOINTS)
    token = settings.token or kept.get()
    with Gate(settings.address, token, facts) as gate:
        _invite(settings, token, facts["commit"])
        status = _train(settings, gate)
        if status == TOO_FEW:
            said = (
                f"too few machines: {gate.members + 1} of at least {settings.least} were here for "
                f"{settings.wait} s"
            )
            gate.close(said)
            raise MachineError(
                f"{said}; start the others, lower {MACHINES} (now {os.environ[MACHINES]}) or unset "
                f"it, or raise {WAIT}, then run `dvc repro` again, which goes on from here"
            )
        if status == UNCONNECTED:
            gate.close(NO_WAY)
            raise MachineError(NO_WAY)
        gate.close(DONE if not status else "the training ended with an error on the first machine")
    if status:
        raise SystemExit(status)
    kept.remove()


def _invite(settings: Settings, token: str, commit: str) -> None:
    """Say what to do on the other machines."""
    least, most = settings.least - 1, settings.most - 1
    others = f"{least} to {most}" if 0 < least < most else str(most)
    machines = "machine" if most == 1 else "machines"
    known = "..." if settings.token else token
    at = f" of commit {commit}" if commit else ""
    waiting = f"waiting at {settings.address} for {others} more {machines}, up to {settings.wait} s"
    if not least:
        waiting = f"beginning alone; up to {others} more {machines} may join at {settings.address}"
    say(
        f"train: {waiting}; on each, in a clone{at}:\n"
        f"train:   {TOKEN}={known} python -m image_pipeline join {settings.address}"
    )


def _train(settings: Settings, gate: Gate) -> int:
    """Run agents until one has come to an end; return its exit status."""
    short = 0
    for number in itertools.count():
        begin = time.monotonic()
        # The store listens on this machine alone; it is the agent's, and ends with it.
        with socket.create_server(("127.0.0.1", 0)) as listening:
            terms: dict[str, Any] = {
                "run": f"run {number}",
                "least": settings.least,
                "most": settings.most,
            }
            gate.open_for(terms, listening.getsockname()[1])
            agent = Agent(
                AgentSettings(
                    store=gate.store_port,
                    listening=listening.fileno(),
                    wait=settings.wait,
                    host=gate.host,
                    **terms,
                )
            )
        with closing(agent):
            status = _watch(agent, gate, settings)
        short = short + 1 if time.monotonic() - begin < SHORT_SECONDS else 0
        if status in (0, TOO_FEW) or 0 < status != LOST or short == MAX_SHORT:
            return status if status >= 0 else LOST
        gate.part_with_all()  # the agent was killed: all meet again in another one's store
    raise AssertionError


def _watch(agent: Agent, gate: Gate, settings: Settings) -> int:
    """Say what happens at the gate until the agent ends; return its exit status."""
    while (status := agent.poll()) is None:
        try:
            event = gate.events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        say(f"train: {_in_words(event, gate.members + 1, settings)}", beside_a_bar=True)
    return status


def _in_words(event: Event, machines: int, settings: Settings) -> str:
    here = f"{machines} machine{'s' if machines > 1 else ''}"
    if event.what == "joined":
        spare = f"; {settings.most} train, and others wait" if machines > settings.most else ""
        return f"{event.host} has joined ({here}{spare})"
    if event.what == "refused":
        return f"a machine at {event.host} was refused: {event.why}"
    if event.what == "stranger":
        return f"a stranger at {event.host} was turned away: {event.why}"
    if machines < settings.least:
        return (
            f"{event.host} is gone: {here} left, of at least {settings.least}; waiting up to "
            f"{settings.wait} s for more"
        )
    return f"{event.host} is gone; going on with {here} from the last checkpoint"


def say(line: str, *, beside_a_bar: bool = False) -> None:
    """Print a line of its own, over the progress bar that another process may draw."""
    start = "" if not beside_a_bar else "\r\x1b[K" if sys.stdout.isatty() else "\n"
    print(f"{start}{line}", flush=True)
