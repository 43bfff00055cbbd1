"""A connection on which both ends have proved that they know the run's token.

The handshake is that of Python's `multiprocessing.connection`: each end answers a random challenge
with an HMAC, so the token itself is never sent. What follows is JSON, never pickles, or the bytes
of PyTorch's store; it is neither encrypted nor signed.
"""

import json
import os
import socket
import struct
import sys
import threading
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any, Self

from image_pipeline.distributed.settings import Address

MAX_MESSAGE_BYTES = 1 << 22
RELAY_CHUNK_BYTES = 1 << 16
HANDSHAKE_TIMEOUT = 5.0
HEARTBEAT_SECONDS = 1.0  # between two heartbeats
HEARTBEAT_TIMEOUT = 7.0  # without a message, the other end counts as lost

Message = dict[str, Any]


class UnauthenticatedError(Exception):
    """The other end does not know the token, or speaks another protocol."""


class AuthenticatedConnection:
    """One end of a connection, after the handshake."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._connection = Connection(os.dup(sock.fileno()))
        self._send_lock = threading.Lock()

    @classmethod
    def connect(cls, address: Address, token: str) -> "AuthenticatedConnection":
        """Connect to the coordinator.

        Raises:
            OSError: nothing listens or answers there.
            UnauthenticatedError: the other end does not know the token.
        """
        sock = socket.create_connection((address.host, address.port), HANDSHAKE_TIMEOUT)
        return cls._handshake(sock, token, challenge_first=False)

    @classmethod
    def accept(cls, sock: socket.socket, token: str) -> "AuthenticatedConnection":
        """Authenticate a client that has connected.

        Raises:
            OSError, EOFError: it disconnected, or did not finish the handshake in time.
            UnauthenticatedError: it does not know the token.
        """
        return cls._handshake(sock, token, challenge_first=True)

    @classmethod
    def _handshake(
        cls, sock: socket.socket, token: str, *, challenge_first: bool
    ) -> "AuthenticatedConnection":
        sock.settimeout(None)  # `Connection` needs a blocking socket; the system applies timeouts
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _set_timeout(sock, HANDSHAKE_TIMEOUT)
        connection = cls(sock)
        # For a client that sends a byte now and then, for which no single read times out.
        deadline = threading.Timer(HANDSHAKE_TIMEOUT, connection.shutdown)
        deadline.daemon = True
        deadline.start()
        steps = [deliver_challenge, answer_challenge]
        try:
            for step in steps if challenge_first else reversed(steps):
                step(connection._connection, token.encode())
        except BaseException as error:
            deadline.cancel()
            connection.close()
            # multiprocessing raises any of these for bytes that are no handshake.
            if isinstance(error, (AuthenticationError, AssertionError, ValueError)):
                raise UnauthenticatedError from None
            raise
        deadline.cancel()
        _set_timeout(sock, HEARTBEAT_TIMEOUT)
        return connection

    @property
    def local_host(self) -> str:
        """This host's address on the network of the connection."""
        return str(self._socket.getsockname()[0])

    def send(self, message: Message) -> None:
        """Send a message, from any thread.

        Raises:
            OSError: the connection is lost.
        """
        with self._send_lock:
            self._connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> Message:
        """Wait for a message.

        Raises:
            OSError, EOFError: the connection is lost, nothing came for `HEARTBEAT_TIMEOUT`, or what
                came is not a JSON object.
        """
        try:
            message = json.loads(self._connection.recv_bytes(MAX_MESSAGE_BYTES))
        except ValueError:
            raise OSError("not JSON") from None
        if not isinstance(message, dict):
            raise OSError("not a JSON object")
        return message

    def relay(self, other: socket.socket) -> None:
        """Copy bytes to and from a connection on this host, until either is closed."""
        _set_timeout(self._socket, 0)
        other.settimeout(None)
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=_copy, args=(other, self._socket), daemon=True)
        back.start()
        _copy(self._socket, other)
        back.join()

    def shutdown(self) -> None:
        """End the connection, from any thread; a thread that waits in `receive` gets an error."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection and release it, once no other thread uses it."""
        self.shutdown()
        self._connection.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(RELAY_CHUNK_BYTES):
            target.sendall(chunk)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _set_timeout(sock: socket.socket, seconds: float) -> None:
    """Let the system limit each send and receive on a blocking socket; 0 for no limit."""
    if sys.platform == "win32":
        return
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, limit)
