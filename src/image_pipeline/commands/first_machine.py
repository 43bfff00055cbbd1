"""The first machine of a run on several machines, and how another one takes part."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, Self

from image_pipeline.common.errors import MachineError
from image_pipeline.distributed.agent import Agent, AgentSettings
from image_pipeline.distributed.facts import Facts
from image_pipeline.distributed.line import BEAT_SECONDS, Line, Message, UnprovedError
from image_pipeline.distributed.part import LOST, UNCONNECTED
from image_pipeline.distributed.settings import TOKEN, Address

RETRY_SECONDS = 1.0
POLL_SECONDS = 0.2
FAREWELL_SECONDS = 15.0  # for the first machine to say how the run ended, when this one's part has


class FirstMachine:
    """The first machine of a run, as another one reaches it.

    Args:
        address: where it listens.
        token: what both must know.
        wait: seconds to wait for it where it is not to be reached.
        say: is given lines for the user.
    """

    def __init__(self, address: Address, token: str, wait: int, say: Callable[[str], None]) -> None:
        self._address, self._token, self._wait, self._say = address, token, wait, say

    def look(self, facts: Facts) -> None:
        """Ask whether this machine would be let in with these facts.

        Raises:
            MachineError: it would not; or the first machine is not to be reached.
        """
        line, _ = self._ask({"wants": "look"}, facts)
        line.__exit__()

    def take_part(self, facts: Facts) -> str:
        """Train with it until the run is over; return how it ended, in its words.

        Raises:
            MachineError: this machine is not let in; or the first one is not to be reached.
            SystemExit: the training has ended here with an error, which it has told by itself.
        """
        while True:
            line, answer = self._ask({"wants": "join"}, facts)
            with line:
                self._say(f"taking part in the run of {self._address}")
                outcome = self._train(line, answer)
            if outcome is not None:
                return outcome
            self._say(
                f"{self._address} is lost; waiting up to {self._wait} s for it to be there again"
            )
            time.sleep(RETRY_SECONDS)

    def _ask(self, request: Message, facts: Facts) -> tuple[Line, Message]:
        """Reach the first machine and ask it for something; wait where it is not there."""
        deadline, told = time.monotonic() + self._wait, False
        while True:
            try:
                line = Line.open(self._address, self._token)
                line.send(request | {"facts": facts | {"clock": time.time()}})
                answer = line.receive()
                break
            except UnprovedError:
                raise MachineError(
                    f"{self._address} does not take this token; set {TOKEN} as the first machine "
                    "prints it"
                ) from None
            except socket.gaierror as error:
                why = f"{self._address.host}: {error.strerror}"
            except (OSError, EOFError) as error:
                why = getattr(error, "strerror", "") or "no answer"
            if time.monotonic() > deadline:
                raise MachineError(
                    f"{self._address} is not to be reached ({why.lower()}) for {self._wait} s; "
                    "start `dvc repro` there first, and see that no firewall is between"
                )
            if not told:
                self._say(f"{self._address} is not to be reached yet ({why.lower()})")
                told = True
            time.sleep(RETRY_SECONDS)
        if answer.get("refused"):
            line.__exit__()
            raise MachineError(str(answer["refused"]))
        return line, answer

    def _train(self, line: Line, answer: Message) -> str | None:
        """Have an agent train while the line lives; return how the run ended, None if unknown."""
        with (
            Tunnels(self._address, self._token, answer["number"]) as tunnels,
            closing(Listener(line)) as first,
            closing(
                Agent(
                    AgentSettings(
                        store=tunnels.port,
                        run=answer["run"],
                        least=answer["least"],
                        most=answer["most"],
                        host=line.own_host,
                    )
                )
            ) as agent,
        ):
            while (status := agent.poll()) is None:
                if first.is_gone(POLL_SECONDS):
                    return first.outcome
            if status in (0, UNCONNECTED):  # the first machine says how the run has ended
                first.is_gone(FAREWELL_SECONDS)
                return first.outcome or ("done" if status == 0 else None)
        if 0 < status != LOST:
            raise SystemExit(status)
        return None


class Listener:
    """Listens for the first machine's signs of life, and gives it some."""

    def __init__(self, line: Line) -> None:
        self.outcome: str | None = None
        self._line = line
        self._gone = threading.Event()
        self._threads = [
            threading.Thread(target=task, daemon=True) for task in (self._hear, self._beat)
        ]
        for thread in self._threads:
            thread.start()

    def is_gone(self, seconds: float) -> bool:
        """Wait for the first machine to be gone, or to have ended the run."""
        return self._gone.wait(seconds)

    def close(self) -> None:
        """Stop."""
        self._line.close()
        self._gone.set()
        for thread in self._threads:
            thread.join()

    def _hear(self) -> None:
        with suppress(OSError, EOFError):
            while self.outcome is None:
                self.outcome = self._line.receive().get("over")
        self._gone.set()

    def _beat(self) -> None:
        with suppress(OSError):
            while not self._gone.wait(BEAT_SECONDS):
                self._line.send({})


class Tunnels:
    """Connections from this machine to the first one's store, through the gate."""

    def __init__(self, address: Address, token: str, number: Any) -> None:
        self._address, self._token, self._number = address, token, number
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                own, _ = self._socket.accept()
                threading.Thread(target=self._pass_on, args=(own,), daemon=True).start()

    def _pass_on(self, own: socket.socket) -> None:
        with (
            own,
            suppress(OSError, EOFError, UnprovedError),
            Line.open(self._address, self._token) as line,
        ):
            line.send({"wants": "store", "number": self._number})
            line.pass_on(own)
