"""Starting and stopping the elastic agent (see `elastic_agent`), a process of its own.

So whoever started the agent can end it at once, whatever it waits for. It ends by itself when its
standard input is closed, that is with the process that started it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

AGENT_MODULE = f"{__package__}.elastic_agent"
TOO_FEW_HOSTS = 76  # exit status: fewer hosts than the minimum for longer than the timeout


@dataclass(frozen=True)
class AgentSettings:
    """The command-line argument of the agent, as JSON.

    Attributes:
        store_port: port on this host of the store, or of a tunnel to it.
        run_id: a name that no other rendezvous in this store has.
        min_hosts, max_hosts: as for `torchrun --nnodes`.
        host: this host's address in the network of the run.
        wait: on the coordinator, seconds to wait for `min_hosts`.
        listen_fd: on the coordinator, the listening socket of the store; None on other hosts.
    """

    store_port: int
    run_id: str
    min_hosts: int
    max_hosts: int
    host: str
    wait: int = 0
    listen_fd: int | None = None


@contextmanager
def spawn_agent(settings: AgentSettings) -> Iterator[subprocess.Popen[bytes]]:
    """Start an agent; kill it, and its worker with it, when the block ends.

    Its exit status is 0, `HOST_LOST`, `TOO_FEW_HOSTS` or the worker's.
    """
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": _network_interface(settings.host),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # else a stack trace for every lost connection
        # Else the agent would listen on all networks, for a store that nobody uses.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM",
    }
    with subprocess.Popen(
        [sys.executable, "-m", AGENT_MODULE, json.dumps(asdict(settings))],
        stdin=subprocess.PIPE,
        env=environment,
        pass_fds=() if settings.listen_fd is None else (settings.listen_fd,),
        start_new_session=True,  # Ctrl-C is for the process that starts it
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _network_interface(host: str) -> str:
    """Return the name of the network interface with this address; empty if there is none."""
    import psutil  # type: ignore[import-untyped]

    host = host.partition("%")[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == host for address in addresses):
            return str(name)
    return ""
