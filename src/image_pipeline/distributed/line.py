"""A connection on which both ends have proved that they know the run's token.

The proof is that of Python's `multiprocessing.connection`: each end has the other answer a random
challenge by an HMAC, so the token itself is never sent. What follows is JSON, never pickles, or the
bytes of PyTorch's store; it is neither encrypted nor signed.
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

MAX_MESSAGE = 1 << 22  # bytes
CHUNK = 1 << 16  # bytes that are passed on at a time
PROOF_SECONDS = 5.0  # for a connection to prove itself
BEAT_SECONDS = 1.0  # between two signs of life
SILENCE_SECONDS = 7.0  # after which the other end counts as gone

Message = dict[str, Any]


class UnprovedError(Exception):
    """The other end does not know the token, or what is there speaks another language."""


class Line:
    """One end of a proved connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._connection = Connection(os.dup(sock.fileno()))
        self._sending = threading.Lock()

    @classmethod
    def open(cls, address: Address, token: str) -> "Line":
        """Connect to the first machine.

        Raises:
            OSError: nobody is there, or nobody answers.
            UnprovedError: it does not know the token.
        """
        sock = socket.create_connection((address.host, address.port), PROOF_SECONDS)
        return cls._prove(sock, token, asks_first=False)

    @classmethod
    def accept(cls, sock: socket.socket, token: str) -> "Line":
        """Have whoever has connected prove itself.

        Raises:
            OSError, EOFError: it went away, or said nothing in time.
            UnprovedError: it does not know the token.
        """
        return cls._prove(sock, token, asks_first=True)

    @classmethod
    def _prove(cls, sock: socket.socket, token: str, *, asks_first: bool) -> "Line":
        sock.settimeout(None)  # `Connection` wants a socket that blocks: the system counts seconds
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _limit(sock, PROOF_SECONDS)
        line = cls(sock)
        # A stranger who sends a byte now and then gets no more time than one who sends none.
        end = threading.Timer(PROOF_SECONDS, line.close)
        end.daemon = True
        end.start()
        steps = [deliver_challenge, answer_challenge]
        try:
            for step in steps if asks_first else reversed(steps):
                step(line._connection, token.encode())
        except BaseException as error:
            end.cancel()
            line.__exit__()
            # Other bytes than it expects, Python's proof meets with any of these.
            if isinstance(error, (AuthenticationError, AssertionError, ValueError)):
                raise UnprovedError from None
            raise
        end.cancel()
        _limit(sock, SILENCE_SECONDS)
        return line

    @property
    def peer(self) -> str:
        """The address of the other end's machine."""
        return str(self._socket.getpeername()[0])

    @property
    def own_host(self) -> str:
        """The address by which this machine reaches the other end."""
        return str(self._socket.getsockname()[0])

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            OSError: the other end is gone.
        """
        with self._sending:
            self._connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> Message:
        """Wait for a message.

        Raises:
            OSError, EOFError: the other end is gone, has said nothing for `SILENCE_SECONDS`, or has
                sent what is no message.
        """
        try:
            message = json.loads(self._connection.recv_bytes(MAX_MESSAGE))
        except ValueError:
            raise OSError("what has come is no message") from None
        if not isinstance(message, dict):
            raise OSError("what has come is no message")
        return message

    def pass_on(self, other: socket.socket) -> None:
        """Pass bytes on between this line and a connection on this machine, until one is closed."""
        _limit(self._socket, 0)
        other.settimeout(None)
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=_copy, args=(other, self._socket), daemon=True)
        back.start()
        _copy(self._socket, other)
        back.join()

    def close(self) -> None:
        """End the connection, from any thread; whoever waits for a message hears of it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the connection; nobody uses it any more."""
        self.close()
        self._connection.close()
        self._socket.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(CHUNK):
            target.sendall(chunk)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _limit(sock: socket.socket, seconds: float) -> None:
    """Have the system end what waits longer for the other end; 0 for no limit."""
    if sys.platform == "win32":
        return
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, limit)
