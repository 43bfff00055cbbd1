"""A host's side of a run that another host coordinates."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from image_pipeline.common.errors import HostError
from image_pipeline.distributed.agent_process import AgentSettings, spawn_agent
from image_pipeline.distributed.connection import (
    HEARTBEAT_SECONDS,
    AuthenticatedConnection,
    Message,
    UnauthenticatedError,
)
from image_pipeline.distributed.coordinator import DONE
from image_pipeline.distributed.fingerprint import Fingerprint
from image_pipeline.distributed.settings import TOKEN, Address
from image_pipeline.distributed.worker import HOST_LOST, HOSTS_UNCONNECTED

RETRY_SECONDS = 1.0
POLL_SECONDS = 0.2
OUTCOME_TIMEOUT = 15.0  # for the coordinator to send the outcome, after this host's agent has ended


class CoordinatorClient:
    """Connects to the coordinator and trains with it.

    Args:
        address: where it listens.
        token: the run's secret.
        wait: seconds to retry while it cannot be reached.
        print_line: called with messages for the user.
    """

    def __init__(
        self, address: Address, token: str, wait: int, print_line: Callable[[str], None]
    ) -> None:
        self._address, self._token, self._wait = address, token, wait
        self._print_line = print_line

    def check(self, fingerprint: Fingerprint) -> None:
        """Ask whether a host with this fingerprint would be let in.

        Raises:
            HostError: it would be refused, or the coordinator cannot be reached.
        """
        connection, _ = self._request("check", fingerprint)
        connection.close()

    def train(self, fingerprint: Fingerprint) -> str:
        """Train until the run is over, reconnecting as needed; return the coordinator's outcome.

        Raises:
            HostError: this host is refused, or the coordinator cannot be reached.
            SystemExit: the worker failed here, and has printed why.
        """
        while True:
            connection, reply = self._request("join", fingerprint)
            with connection:
                self._print_line(f"joined the run of {self._address}")
                outcome = self._run_agent(connection, reply)
            if outcome is not None:
                return outcome
            self._print_line(
                f"lost {self._address}; waiting up to {self._wait} s for it to come back"
            )
            time.sleep(RETRY_SECONDS)

    def _request(
        self, kind: str, fingerprint: Fingerprint
    ) -> tuple[AuthenticatedConnection, Message]:
        """Connect and send a request, retrying as needed; return the connection and the reply."""
        deadline, reported = time.monotonic() + self._wait, False
        while True:
            try:
                connection = AuthenticatedConnection.connect(self._address, self._token)
                now = {"clock": time.time()}
                connection.send({"request": kind, "fingerprint": fingerprint | now})
                reply = connection.receive()
                break
            except UnauthenticatedError:
                raise HostError(
                    f"{self._address} rejects this token; set {TOKEN} as the coordinator prints it"
                ) from None
            except socket.gaierror as error:
                reason = f"{self._address.host}: {error.strerror}"
            except (OSError, EOFError) as error:
                reason = getattr(error, "strerror", "") or "no answer"
            if time.monotonic() > deadline:
                raise HostError(
                    f"{self._address} could not be reached for {self._wait} s ({reason.lower()}); "
                    "start `dvc repro` there first, and check that no firewall is in between"
                )
            if not reported:
                self._print_line(f"{self._address} cannot be reached yet ({reason.lower()})")
                reported = True
            time.sleep(RETRY_SECONDS)
        if reply.get("refused"):
            connection.close()
            raise HostError(str(reply["refused"]))
        return connection, reply

    def _run_agent(self, connection: AuthenticatedConnection, reply: Message) -> str | None:
        """Run an agent while connected; return the run's outcome, or None if it is unknown."""
        with (
            closing(StoreTunnels(self._address, self._token, reply["member"])) as tunnels,
            closing(Heartbeat(connection)) as heartbeat,
            spawn_agent(
                AgentSettings(
                    store_port=tunnels.port,
                    run_id=reply["run_id"],
                    min_hosts=reply["min_hosts"],
                    max_hosts=reply["max_hosts"],
                    host=connection.local_host,
                )
            ) as agent,
        ):
            while (status := agent.poll()) is None:
                if heartbeat.ended.wait(POLL_SECONDS):
                    return heartbeat.outcome
            if status in (0, HOSTS_UNCONNECTED):  # the run has ended: the coordinator says how
                heartbeat.ended.wait(OUTCOME_TIMEOUT)
                return heartbeat.outcome or (DONE if status == 0 else None)
        if 0 < status != HOST_LOST:
            raise SystemExit(status)
        return None


class Heartbeat:
    """Sends heartbeats to the coordinator, and receives its heartbeats and the run's outcome.

    Attributes:
        outcome: of the run; None while it is unknown.
        ended: set when the run ends or the coordinator is lost.
    """

    def __init__(self, connection: AuthenticatedConnection) -> None:
        self.outcome: str | None = None
        self._connection = connection
        self.ended = threading.Event()
        self._threads = [
            threading.Thread(target=task, daemon=True) for task in (self._receive, self._send)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the connection and both threads."""
        self._connection.shutdown()
        self.ended.set()
        for thread in self._threads:
            thread.join()

    def _receive(self) -> None:
        with suppress(OSError, EOFError):
            while self.outcome is None:
                self.outcome = self._connection.receive().get("outcome")
        self.ended.set()

    def _send(self) -> None:
        with suppress(OSError):
            while not self.ended.wait(HEARTBEAT_SECONDS):
                self._connection.send({})


class StoreTunnels:
    """A port on this host whose connections are relayed to the coordinator's store."""

    def __init__(self, address: Address, token: str, member: Any) -> None:
        self._address, self._token, self._member = address, token, member
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError, EOFError, UnauthenticatedError),
            AuthenticatedConnection.connect(self._address, self._token) as connection,
        ):
            connection.send({"request": "store", "member": self._member})
            connection.relay(client)
