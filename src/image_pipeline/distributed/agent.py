"""PyTorch's elastic agent, a process of each machine: `python -m ...machines.agent SETTINGS`.

It meets the agents of the other machines in PyTorch's rendezvous, whose state lies in the store
behind the gate, and starts the process that trains. Where that fails since another machine is lost,
and where a machine is lost or waits to be let in, the agents meet again and start it anew. The
agent is a process of its own, so that whoever has started it can end it at once, whatever it waits
for. It ends when its standard input does: with the process that has started it.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass

from image_pipeline.distributed.part import end_with_input

TOO_FEW = 76  # exit status: there were too few machines for too long


@dataclass(frozen=True)
class AgentSettings:
    """What an agent must know.

    Attributes:
        store: the port, on this machine, that is the store or leads to it.
        run: a name that no other rendezvous in this store has.
        least, most: machines.
        host: this machine's address in the network of the run.
        wait: on the first machine, seconds to wait for as many as `least`.
        listening: on the first machine, the open socket of the store; None on others.
    """

    store: int
    run: str
    least: int
    most: int
    host: str
    wait: int = 0
    listening: int | None = None


class Agent:
    """The agent's process, seen from the one that starts it."""

    def __init__(self, settings: AgentSettings) -> None:
        environment = os.environ | {
            "GLOO_SOCKET_IFNAME": _interface_of(settings.host),
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # or it tells every lost connection with a stack
            # Else the agent would listen, on all networks, for nobody.
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(asdict(settings))],
            stdin=subprocess.PIPE,
            env=environment,
            pass_fds=() if settings.listening is None else (settings.listening,),
            start_new_session=True,  # Ctrl-C is for the process that starts it
        )

    def poll(self) -> int | None:
        """Return the exit status: 0, `LOST`, `TOO_FEW` or the training's; None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """End it at once, and the process that trains with it."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def _interface_of(host: str) -> str:
    """Return the network interface with an address; empty where none is found."""
    import psutil  # type: ignore[import-untyped]

    host = host.partition("%")[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == host for address in addresses):
            return str(name)
    return ""


def main() -> None:
    """Be an agent."""
    end_with_input()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = AgentSettings(**json.loads(sys.argv[1]))
    from image_pipeline.distributed.elastic import run

    status = run(settings)
    sys.stdout.flush()
    os._exit(status)  # not by way of the threads that wait for a store that may be gone


if __name__ == "__main__":
    main()
