"""The gate on this machine: who is let in, who is turned away, and that it disturbs nobody."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from image_pipeline.commands.first_machine import FirstMachine, Listener, Tunnels
from image_pipeline.common.errors import MachineError
from image_pipeline.distributed import gate as gates
from image_pipeline.distributed import line as lines
from image_pipeline.distributed.gate import NO_PROOF, WRONG_TOKEN, Event, Gate
from image_pipeline.distributed.line import Line, UnprovedError
from image_pipeline.distributed.settings import Address

TOKEN = "0123456789abcdef"
FACTS: dict[str, Any] = {"code": {}, "settings": {"torch": "2"}, "commit": "", "data": {}}
HOST = "127.0.0.1"
SECONDS = 10.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PROOF_SECONDS", 1.0)
    monkeypatch.setattr(lines, "SILENCE_SECONDS", 2.0)
    for module in (gates, "image_pipeline.commands.first_machine"):
        target = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{target}.BEAT_SECONDS", 0.2)


@pytest.fixture
def address() -> Address:
    with socket.create_server((HOST, 0)) as free:
        return Address(HOST, free.getsockname()[1])


@pytest.fixture
def gate(address: Address) -> Iterator[Gate]:
    with Gate(address, TOKEN, FACTS) as found:
        found.open_for({"run": "a run"}, 0)
        yield found


def request(wants: str, **changes: Any) -> dict[str, Any]:
    return {"wants": wants, "facts": FACTS | {"clock": time.time()} | changes}


def join(address: Address) -> tuple[Line, dict[str, Any]]:
    line = Line.open(address, TOKEN)
    line.send(request("join"))
    return line, line.receive()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_who_knows_the_token_and_is_equal_is_let_in(gate: Gate, address: Address) -> None:
    line, answer = join(address)
    with line:
        assert answer == {"refused": None, "run": "a run", "number": 1}
        assert gate.events.get(timeout=SECONDS) == Event("joined", HOST)
        assert gate.members == 1
        assert line.receive() == {}  # a sign of life
    assert gate.events.get(timeout=SECONDS) == Event("gone", HOST)
    assert gate.members == 0


def test_who_comes_before_there_is_a_rendezvous_waits_for_it(address: Address) -> None:
    with Gate(address, TOKEN, FACTS) as gate:
        threading.Timer(0.3, gate.open_for, ({"run": "a later run"}, 0)).start()
        line, answer = join(address)
        with line:
            assert answer["run"] == "a later run"


def test_a_wrong_token_is_turned_away(gate: Gate, address: Address) -> None:
    with pytest.raises(UnprovedError):
        Line.open(address, TOKEN + "0")
    assert gate.events.get(timeout=SECONDS) == Event("stranger", HOST, WRONG_TOKEN)
    first = FirstMachine(address, TOKEN + "0", 1, print)
    with pytest.raises(MachineError, match="does not take this token; set IMAGE_PIPELINE_TOKEN"):
        first.look(FACTS)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x04junk",
        b"\xff" * 64,
        b"\x00\x00\x00\x20" * 40,
    ],
)
def test_a_stranger_is_turned_away_in_time_and_disturbs_nobody(
    junk: bytes, gate: Gate, address: Address
) -> None:
    line, _ = join(address)
    with line:
        assert gate.events.get(timeout=SECONDS).what == "joined"
        begin = time.monotonic()
        with socket.create_connection((address.host, address.port), SECONDS) as stranger:
            stranger.sendall(junk)
            event = gate.events.get(timeout=SECONDS)
            assert event.what == "stranger"
            assert event.why in (WRONG_TOKEN, NO_PROOF)
            assert time.monotonic() - begin < 5  # of seven
            while stranger.recv(1 << 10):  # closed
                pass
        for _ in range(3):
            assert line.receive() == {}


def test_a_stranger_who_trickles_gets_no_more_time(gate: Gate, address: Address) -> None:
    with socket.create_connection((address.host, address.port), SECONDS) as stranger:
        begin = time.monotonic()

        def trickle() -> None:
            try:
                for byte in b"\x00\x00\x00\x20" + b"x" * 32:
                    stranger.sendall(bytes([byte]))
                    time.sleep(0.2)
            except OSError:
                pass

        thread = threading.Thread(target=trickle)
        thread.start()
        assert gate.events.get(timeout=SECONDS).what == "stranger"
        assert time.monotonic() - begin < 5  # of seven
        thread.join()


def test_many_strangers_do_not_keep_others_out(gate: Gate, address: Address) -> None:
    strangers = [
        socket.create_connection((address.host, address.port), SECONDS)
        for _ in range(gates.UNPROVED_AT_ONCE + 8)
    ]
    deadline = time.monotonic() + SECONDS
    while True:  # those that are silent are gone in a second
        try:
            line, _ = join(address)
            break
        except (OSError, EOFError):
            assert time.monotonic() < deadline
    line.__exit__()
    for stranger in strangers:
        stranger.close()
    told: list[str] = []
    while told.count("stranger") < gates.STRANGERS_TOLD or "joined" not in told:
        told.append(gate.events.get(timeout=SECONDS).what)
    time.sleep(0.5)  # for more, of which there must be none
    while not gate.events.empty():
        told.append(gate.events.get().what)
    assert told.count("stranger") == gates.STRANGERS_TOLD
    assert set(told) <= {"stranger", "joined", "gone"}


def test_who_is_not_equal_is_refused(gate: Gate, address: Address) -> None:
    said: list[str] = []
    first = FirstMachine(address, TOKEN, 1, said.append)
    with pytest.raises(MachineError, match=r"^torch is 1 here and 2 on the first machine$"):
        first.look(FACTS | {"settings": {"torch": "1"}})
    assert gate.events.get(timeout=SECONDS).what == "refused"
    facts: Any
    for facts in (None, {"clock": time.time()}, {"clock": "now", **FACTS}, []):
        with Line.open(address, TOKEN) as line:
            line.send({"wants": "join", "facts": facts})
            assert "facts are not what this version" in line.receive()["refused"]
    first.look(FACTS)
    assert said == []


def test_what_proves_itself_and_then_sends_junk_is_dropped(gate: Gate, address: Address) -> None:
    for message in (b"[]", b"{", b"\xff", json.dumps({"wants": "store", "number": 9}).encode()):
        with Line.open(address, TOKEN) as line:
            line._connection.send_bytes(message)
            with pytest.raises((OSError, EOFError)):
                line.receive()
    assert gate.members == 0


def test_bytes_pass_to_the_store_and_back(gate: Gate, address: Address) -> None:
    with socket.create_server((HOST, 0)) as store:
        gate.open_for({}, store.getsockname()[1])
        line, answer = join(address)
        with (
            line,
            Tunnels(address, TOKEN, answer["number"]) as tunnels,
            socket.create_connection((HOST, tunnels.port), SECONDS) as own,
            store.accept()[0] as there,
        ):
            there.settimeout(SECONDS)
            sender = threading.Thread(target=own.sendall, args=(b"x" * (1 << 20),))
            sender.start()
            got = 0
            while got < 1 << 20:
                got += len(there.recv(1 << 16))
            sender.join()
            there.sendall(b"back")
            assert own.recv(4) == b"back"
            line.close()  # whoever is gone has no way to the store
            assert there.recv(1) == b""
            assert own.recv(1) == b""


def test_the_end_of_the_run_is_told(gate: Gate, address: Address) -> None:
    line, _ = join(address)
    with line, closing(Listener(line)) as first:
        assert not first.is_gone(0.5)
        gate.close("done")
        assert first.is_gone(SECONDS)
        assert first.outcome == "done"


def test_a_frozen_machine_is_gone_after_some_silence(gate: Gate, address: Address) -> None:
    line, _ = join(address)
    with line:
        assert gate.events.get(timeout=SECONDS).what == "joined"
        begin = time.monotonic()
        assert gate.events.get(timeout=SECONDS) == Event("gone", HOST)  # it never says a thing
        assert 1.0 < time.monotonic() - begin < 4.0


def test_a_taken_port_and_foreign_addresses(gate: Gate, address: Address) -> None:
    with pytest.raises(MachineError, match="is taken by another program; choose another port"):
        Gate(address, TOKEN, FACTS)
    with pytest.raises(MachineError, match="is no address of this machine"):
        Gate(Address("192.0.2.1", 29400), TOKEN, FACTS)
    with pytest.raises(MachineError, match=r"no-such-host.invalid: .*; name a host"):
        Gate(Address("no-such-host.invalid", 29400), TOKEN, FACTS)
    assert gate.members == 0


def test_an_address_where_nobody_is(address: Address) -> None:
    said: list[str] = []
    first = FirstMachine(address, TOKEN, 1, said.append)
    with pytest.raises(MachineError, match=r"is not to be reached \(connection refused\) for 1 s;"):
        first.look(FACTS)
    assert said == [f"{address} is not to be reached yet (connection refused)"]
