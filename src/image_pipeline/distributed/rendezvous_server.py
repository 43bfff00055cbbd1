"""The coordinator's server, which lets in only hosts that know the token and match it.

It listens on the run's address alone. The store of PyTorch's rendezvous has no authentication, so
it listens on the coordinator's loopback interface only; other hosts reach it through this server.
After the handshake (see `connection`), a client sends one request:

- `check`: whether the host would be let in. It fetches the data after that.
- `join`: take part. The connection stays open for heartbeats both ways and, at the end, the run's
  outcome. The host gets a member number.
- `store`: a tunnel to the store, for a member.
"""

import errno
import os
import queue
import socket
import threading
from contextlib import suppress
from itertools import count
from typing import Literal, NamedTuple

from image_pipeline.common.errors import HostError, one_line
from image_pipeline.distributed.connection import (
    HEARTBEAT_SECONDS,
    AuthenticatedConnection,
    Message,
    UnauthenticatedError,
)
from image_pipeline.distributed.fingerprint import Fingerprint, describe_mismatch
from image_pipeline.distributed.settings import ADDRESS, Address

MAX_PENDING_HANDSHAKES = 32  # connections beyond that wait
MAX_UNAUTHENTICATED_EVENTS = 20  # so that a port scan does not flood the terminal

WRONG_TOKEN = "wrong token"  # noqa: S105 - a message
NO_HANDSHAKE = "no valid handshake"


class Event(NamedTuple):
    """What the coordinator reports to its user."""

    kind: Literal["joined", "left", "refused", "unauthenticated"]
    host: str
    reason: str = ""


class RendezvousServer:
    """Listens from its construction until it is closed."""

    def __init__(self, address: Address, token: str, fingerprint: Fingerprint) -> None:
        """Start listening.

        Args:
            address: an address of this host.
            token: the secret that clients must know.
            fingerprint: what must be equal on other hosts, data included.

        Raises:
            HostError: the address is in use, or is not this host's.
        """
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.store_port = 0
        self._token, self._fingerprint = token, fingerprint
        self._rendezvous: Message = {}
        self._rendezvous_known = threading.Event()
        self._members: dict[int, AuthenticatedConnection] = {}
        self._tunnels: dict[int, list[AuthenticatedConnection]] = {}
        # `next` is atomic: threads need no lock for it.
        self._member_numbers, self._unauthenticated_numbers = count(1), count(1)
        self._pending = threading.Semaphore(MAX_PENDING_HANDSHAKES)
        self._socket = _listen(address)
        self._closed = threading.Event()
        for task in (self._accept, self._send_heartbeats):
            threading.Thread(target=task, daemon=True).start()

    @property
    def host(self) -> str:
        """The numeric address that it listens on."""
        return str(self._socket.getsockname()[0])

    @property
    def num_hosts(self) -> int:
        """The number of hosts in the run, the coordinator included."""
        return len(self._members) + 1

    def close(self, outcome: str = "") -> None:
        """Stop listening; if the run is over, send its outcome to the members."""
        self._closed.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in list(self._members.values()):
            if outcome:
                with suppress(OSError):
                    connection.send({"outcome": outcome})
            connection.shutdown()  # and its tunnels with it

    def set_rendezvous(self, rendezvous: Message, store_port: int) -> None:
        """Send hosts that join from now on to this rendezvous, and tunnels to its store."""
        self._rendezvous, self.store_port = rendezvous, store_port
        self._rendezvous_known.set()

    def disconnect_members(self) -> None:
        """Make all members join again."""
        for connection in list(self._members.values()):
            connection.shutdown()

    def _accept(self) -> None:
        while True:
            self._pending.acquire()
            try:
                sock, peer = self._socket.accept()
            except OSError:
                if self._closed.is_set():
                    return
                self._pending.release()
                self._closed.wait(HEARTBEAT_SECONDS)  # too many open files, for example
                continue
            threading.Thread(target=self._serve, args=(sock, str(peer[0])), daemon=True).start()

    def _serve(self, sock: socket.socket, host: str) -> None:
        try:
            connection = AuthenticatedConnection.accept(sock, self._token)
        except (UnauthenticatedError, OSError, EOFError) as error:
            if next(self._unauthenticated_numbers) <= MAX_UNAUTHENTICATED_EVENTS:
                reason = WRONG_TOKEN if isinstance(error, UnauthenticatedError) else NO_HANDSHAKE
                self.events.put(Event("unauthenticated", host, reason))
            return
        finally:
            self._pending.release()
        with connection, suppress(OSError, EOFError):
            message = connection.receive()
            match message.get("request"):
                case "check":
                    connection.send(self._check(message, host))
                case "join":
                    self._join(connection, message, host)
                case "store":
                    self._open_tunnel(connection, message)

    def _check(self, message: Message, host: str) -> Message:
        """Return the reply to a host: why it is refused, or None."""
        try:
            mismatch = describe_mismatch(self._fingerprint, message["fingerprint"])
        except (AttributeError, KeyError, TypeError):
            mismatch = "its fingerprint is not of this version of the project"
        if mismatch is not None:
            self.events.put(Event("refused", host, one_line(mismatch, 300)))
        return {"refused": mismatch}

    def _join(self, connection: AuthenticatedConnection, message: Message, host: str) -> None:
        self._rendezvous_known.wait()
        reply = self._check(message, host)
        if reply["refused"]:
            connection.send(reply)
            return
        member = next(self._member_numbers)
        self._members[member] = connection
        self.events.put(Event("joined", host))
        try:
            connection.send(reply | self._rendezvous | {"member": member})
            while True:
                connection.receive()
        except (OSError, EOFError):
            pass
        finally:
            del self._members[member]
            for tunnel in self._tunnels.pop(member, []):
                tunnel.shutdown()
            if not self._closed.is_set():
                self.events.put(Event("left", host))

    def _open_tunnel(self, connection: AuthenticatedConnection, message: Message) -> None:
        member = message.get("member")
        if member not in self._members:
            return
        self._tunnels.setdefault(member, []).append(connection)
        with socket.create_connection(("127.0.0.1", self.store_port)) as store:
            connection.relay(store)
        with suppress(KeyError, ValueError):
            self._tunnels[member].remove(connection)

    def _send_heartbeats(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            for connection in list(self._members.values()):
                with suppress(OSError):
                    connection.send({})


def _listen(address: Address) -> socket.socket:
    try:
        family, *_, socket_address = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(socket_address[:2], family=family)
    except socket.gaierror as error:
        raise HostError(
            f"{ADDRESS}: {address.host}: {error.strerror}; give a name or address of this machine"
        ) from None
    except OSError as error:
        problem = {
            errno.EADDRINUSE: "is in use by another program; choose another port",
            errno.EADDRNOTAVAIL: "is not an address of this machine; `ip address` lists them",
        }.get(error.errno or 0, f"cannot be listened on ({os.strerror(error.errno or 0)})")
        raise HostError(f"{ADDRESS}: {address} {problem}") from None
