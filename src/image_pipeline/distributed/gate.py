"""The first machine's gate: who knows the token and is equal may take part, and nobody else.

It listens on the run's address alone. Behind it lies the store of PyTorch's rendezvous, which knows
no secrets and therefore listens on this machine alone; the others reach it through the gate. A
connection first proves itself (see `line`), then says what it wants:

- `look`: to know whether its machine would be let in; it then fetches the data.
- `join`: to take part. The connection stays, and carries signs of life both ways, and at the end
  what has become of the run. Who takes part has a number.
- `store`: to speak with the store, in the name of a number.
"""

import errno
import os
import queue
import socket
import threading
from contextlib import suppress
from typing import Literal, NamedTuple, Self

from image_pipeline.common.errors import MachineError, one_line
from image_pipeline.distributed.facts import Facts, difference
from image_pipeline.distributed.line import BEAT_SECONDS, Line, Message, UnprovedError
from image_pipeline.distributed.settings import ADDRESS, Address

UNPROVED_AT_ONCE = 32  # connections that have proved nothing yet; more have to wait
STRANGERS_TOLD = 20  # of so many a line is printed

WRONG_TOKEN = "it does not know the token"  # noqa: S105 - the words for it
NO_PROOF = "it said nothing that is understood here"


class Event(NamedTuple):
    """What has happened at the gate."""

    what: Literal["joined", "gone", "refused", "stranger"]
    host: str
    why: str = ""


class Gate:
    """Listens, from its making to its closing."""

    def __init__(self, address: Address, token: str, facts: Facts) -> None:
        """Open it.

        Args:
            address: where.
            token: what all must know.
            facts: what must be equal, data included.

        Raises:
            MachineError: the address is taken, or is not this machine's.
        """
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.store_port = 0
        self._token, self._facts = token, facts
        self._terms: Message = {}
        self._ready = threading.Event()  # whether there are any
        self._members: dict[int, Line] = {}
        self._tunnels: dict[int, list[Line]] = {}
        self._count = self._strangers = 0
        self._lock = threading.Lock()
        self._unproved = threading.Semaphore(UNPROVED_AT_ONCE)
        self._socket = _listen(address)
        self._closed = threading.Event()
        for task in (self._accept, self._beat):
            threading.Thread(target=task, daemon=True).start()

    @property
    def host(self) -> str:
        """The address that it listens on, as a number."""
        return str(self._socket.getsockname()[0])

    @property
    def members(self) -> int:
        """How many other machines are there."""
        return len(self._members)

    def close(self, outcome: str = "") -> None:
        """Close the gate, and tell the others what has become of the run, if it is over."""
        self._closed.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for line in list(self._members.values()):
            if outcome:
                with suppress(OSError):
                    line.send({"over": outcome})
            line.close()  # and its tunnels with it

    def open_for(self, terms: Message, store_port: int) -> None:
        """Tell those who take part from now on of a rendezvous, and lead them to its store."""
        self._terms, self.store_port = terms, store_port
        self._ready.set()

    def part_with_all(self) -> None:
        """Have all who take part join anew."""
        for line in list(self._members.values()):
            line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            self._unproved.acquire()
            try:
                sock, peer = self._socket.accept()
            except OSError:
                if self._closed.is_set():
                    return
                self._unproved.release()
                self._closed.wait(BEAT_SECONDS)  # too many open files, or the like
                continue
            threading.Thread(target=self._serve, args=(sock, str(peer[0])), daemon=True).start()

    def _serve(self, sock: socket.socket, host: str) -> None:
        try:
            line = Line.accept(sock, self._token)
        except (UnprovedError, OSError, EOFError) as error:
            with self._lock:
                self._strangers += 1
                number = self._strangers
            if number <= STRANGERS_TOLD:
                why = WRONG_TOKEN if isinstance(error, UnprovedError) else NO_PROOF
                self.events.put(Event("stranger", host, why))
            return
        finally:
            self._unproved.release()
        with line, suppress(OSError, EOFError):
            request = line.receive()
            match request.get("wants"):
                case "look":
                    line.send(self._answer(request, host))
                case "join":
                    self._welcome(line, request, host)
                case "store":
                    self._tunnel(line, request)

    def _answer(self, request: Message, host: str) -> Message:
        """Return whether a machine is equal."""
        try:
            refusal = difference(self._facts, request["facts"])
        except (AttributeError, KeyError, TypeError):
            refusal = "its facts are not what this version of the project asks for"
        if refusal is None:
            return {"refused": None}
        self.events.put(Event("refused", host, one_line(refusal, 300)))
        return {"refused": refusal}

    def _welcome(self, line: Line, request: Message, host: str) -> None:
        self._ready.wait()
        answer = self._answer(request, host)
        if answer["refused"]:
            line.send(answer)
            return
        with self._lock:
            self._count += 1
            number = self._count
        self._members[number] = line
        self.events.put(Event("joined", host))
        try:
            line.send(answer | self._terms | {"number": number})
            while True:
                line.receive()
        except (OSError, EOFError):
            pass
        finally:
            del self._members[number]
            for tunnel in self._tunnels.pop(number, []):
                tunnel.close()
            if not self._closed.is_set():
                self.events.put(Event("gone", host))

    def _tunnel(self, line: Line, request: Message) -> None:
        number = request.get("number")
        if number not in self._members:
            return
        self._tunnels.setdefault(number, []).append(line)
        with socket.create_connection(("127.0.0.1", self.store_port)) as store:
            line.pass_on(store)
        with suppress(KeyError, ValueError):
            self._tunnels[number].remove(line)

    def _beat(self) -> None:
        """Give all who take part signs of life."""
        while not self._closed.wait(BEAT_SECONDS):
            for line in list(self._members.values()):
                with suppress(OSError):
                    line.send({})


def _listen(address: Address) -> socket.socket:
    try:
        family, *_, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(place[:2], family=family)
    except socket.gaierror as error:
        raise MachineError(f"{ADDRESS}: {address.host}: {error.strerror}; name a host") from None
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: "is taken by another program; choose another port",
            errno.EADDRNOTAVAIL: "is no address of this machine; `ip address` lists those",
        }
        said = remedy.get(
            error.errno or 0, f"cannot be listened on ({os.strerror(error.errno or 0)})"
        )
        raise MachineError(f"{ADDRESS}: {address} {said}") from None
