"""Who is let in, who is refused, and that refused connections disturb no other."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from image_pipeline.common.errors import HostError
from image_pipeline.distributed.connection import AuthenticatedConnection, UnauthenticatedError
from image_pipeline.distributed.coordinator_client import CoordinatorClient, Heartbeat, StoreTunnels
from image_pipeline.distributed.rendezvous_server import (
    MAX_PENDING_HANDSHAKES,
    MAX_UNAUTHENTICATED_EVENTS,
    NO_HANDSHAKE,
    WRONG_TOKEN,
    Event,
    RendezvousServer,
)
from image_pipeline.distributed.settings import Address

TOKEN = "0123456789abcdef"
FINGERPRINT: dict[str, Any] = {"code": {}, "settings": {"torch": "2"}, "commit": "", "data": {}}
HOST = "127.0.0.1"
SECONDS = 10.0


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_pipeline.distributed.connection.HANDSHAKE_TIMEOUT", 1.0)
    monkeypatch.setattr("image_pipeline.distributed.connection.HEARTBEAT_TIMEOUT", 2.0)
    for module in ("distributed.rendezvous_server", "distributed.coordinator_client"):
        monkeypatch.setattr(f"image_pipeline.{module}.HEARTBEAT_SECONDS", 0.2)


@pytest.fixture
def address() -> Address:
    with socket.create_server((HOST, 0)) as free:
        return Address(HOST, free.getsockname()[1])


@pytest.fixture
def server(address: Address) -> Iterator[RendezvousServer]:
    with closing(RendezvousServer(address, TOKEN, FINGERPRINT)) as server:
        server.set_rendezvous({"run_id": "a run"}, 0)
        yield server


@contextmanager
def joined(address: Address) -> Iterator[tuple[AuthenticatedConnection, dict[str, Any]]]:
    """Join as a host does; yield the connection and the coordinator's reply."""
    with AuthenticatedConnection.connect(address, TOKEN) as connection:
        fingerprint = FINGERPRINT | {"clock": time.time()}
        connection.send({"request": "join", "fingerprint": fingerprint})
        yield connection, connection.receive()


def test_equal_host_with_the_token_may_join(server: RendezvousServer, address: Address) -> None:
    with joined(address) as (connection, reply):
        assert reply == {"refused": None, "run_id": "a run", "member": 1}
        assert server.events.get(timeout=SECONDS) == Event("joined", HOST)
        assert server.num_hosts == 2
        assert connection.receive() == {}  # a heartbeat
    assert server.events.get(timeout=SECONDS) == Event("left", HOST)
    assert server.num_hosts == 1


def test_host_that_joins_before_the_rendezvous_waits_for_it(address: Address) -> None:
    with closing(RendezvousServer(address, TOKEN, FINGERPRINT)) as server:
        threading.Timer(0.3, server.set_rendezvous, ({"run_id": "a later run"}, 0)).start()
        with joined(address) as (_, reply):
            assert reply["run_id"] == "a later run"


def test_wrong_token_is_refused(server: RendezvousServer, address: Address) -> None:
    with pytest.raises(UnauthenticatedError):
        AuthenticatedConnection.connect(address, TOKEN + "0")
    assert server.events.get(timeout=SECONDS) == Event("unauthenticated", HOST, WRONG_TOKEN)
    client = CoordinatorClient(address, TOKEN + "0", 1, print)
    with pytest.raises(HostError, match="rejects this token; set IMAGE_PIPELINE_TOKEN"):
        client.check(FINGERPRINT)


JUNK = (
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x00\x00\x00\x04junk",
    b"\xff" * 64,
    b"\x00\x00\x00\x20" * 40,
)


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_refused_in_time_and_disturbs_nobody(
    junk: bytes, server: RendezvousServer, address: Address
) -> None:
    with joined(address) as (connection, _):
        assert server.events.get(timeout=SECONDS).kind == "joined"
        begin = time.monotonic()
        with socket.create_connection((address.host, address.port), SECONDS) as client:
            client.sendall(junk)
            event = server.events.get(timeout=SECONDS)
            assert event.kind == "unauthenticated"
            assert event.reason in (WRONG_TOKEN, NO_HANDSHAKE)
            assert time.monotonic() - begin < 5  # instead of seven seconds
            while client.recv(1 << 10):  # closed
                pass
        for _ in range(3):
            assert connection.receive() == {}


def test_slow_handshake_gets_no_more_time(server: RendezvousServer, address: Address) -> None:
    with socket.create_connection((address.host, address.port), SECONDS) as client:
        begin = time.monotonic()

        def trickle() -> None:
            try:
                for byte in b"\x00\x00\x00\x20" + b"x" * 32:
                    client.sendall(bytes([byte]))
                    time.sleep(0.2)
            except OSError:
                pass

        thread = threading.Thread(target=trickle)
        thread.start()
        assert server.events.get(timeout=SECONDS).kind == "unauthenticated"
        assert time.monotonic() - begin < 5  # instead of seven seconds
        thread.join()


def test_many_pending_handshakes_do_not_block_others(
    server: RendezvousServer, address: Address
) -> None:
    clients = [
        socket.create_connection((address.host, address.port), SECONDS)
        for _ in range(MAX_PENDING_HANDSHAKES + 8)
    ]
    deadline = time.monotonic() + SECONDS
    while True:  # silent ones time out after a second
        try:
            with joined(address):
                break
        except (OSError, EOFError):
            assert time.monotonic() < deadline
    for client in clients:
        client.close()
    kinds: list[str] = []
    while kinds.count("unauthenticated") < MAX_UNAUTHENTICATED_EVENTS or "joined" not in kinds:
        kinds.append(server.events.get(timeout=SECONDS).kind)
    time.sleep(0.5)  # there must be no more
    while not server.events.empty():
        kinds.append(server.events.get().kind)
    assert kinds.count("unauthenticated") == MAX_UNAUTHENTICATED_EVENTS
    assert set(kinds) <= {"unauthenticated", "joined", "left"}


def test_host_that_differs_is_refused(server: RendezvousServer, address: Address) -> None:
    printed: list[str] = []
    client = CoordinatorClient(address, TOKEN, 1, printed.append)
    with pytest.raises(HostError, match=r"^torch is 1 here and 2 on the coordinator$"):
        client.check(FINGERPRINT | {"settings": {"torch": "1"}})
    assert server.events.get(timeout=SECONDS).kind == "refused"
    fingerprint: Any
    for fingerprint in (None, {"clock": time.time()}, {"clock": "now", **FINGERPRINT}, []):
        with AuthenticatedConnection.connect(address, TOKEN) as connection:
            connection.send({"request": "join", "fingerprint": fingerprint})
            assert "fingerprint is not of this version" in connection.receive()["refused"]
    client.check(FINGERPRINT)
    assert printed == []


def test_authenticated_junk_ends_the_connection(server: RendezvousServer, address: Address) -> None:
    for message in (b"[]", b"{", b"\xff", json.dumps({"request": "store", "member": 9}).encode()):
        with AuthenticatedConnection.connect(address, TOKEN) as connection:
            connection._connection.send_bytes(message)
            with pytest.raises((OSError, EOFError)):
                connection.receive()
    assert server.num_hosts == 1


def test_tunnel_relays_both_ways(server: RendezvousServer, address: Address) -> None:
    with socket.create_server((HOST, 0)) as store:
        server.set_rendezvous({}, store.getsockname()[1])
        with (
            joined(address) as (connection, reply),
            closing(StoreTunnels(address, TOKEN, reply["member"])) as tunnels,
            socket.create_connection((HOST, tunnels.port), SECONDS) as client,
            store.accept()[0] as accepted,
        ):
            accepted.settimeout(SECONDS)
            sender = threading.Thread(target=client.sendall, args=(b"x" * (1 << 20),))
            sender.start()
            got = 0
            while got < 1 << 20:
                got += len(accepted.recv(1 << 16))
            sender.join()
            accepted.sendall(b"back")
            assert client.recv(4) == b"back"
            connection.shutdown()  # the tunnels of a host that left are closed
            assert accepted.recv(1) == b""
            assert client.recv(1) == b""


def test_outcome_reaches_members(server: RendezvousServer, address: Address) -> None:
    with joined(address) as (connection, _), closing(Heartbeat(connection)) as heartbeat:
        assert not heartbeat.ended.wait(0.5)
        server.close("done")
        assert heartbeat.ended.wait(SECONDS)
        assert heartbeat.outcome == "done"


def test_host_without_heartbeats_is_lost(server: RendezvousServer, address: Address) -> None:
    with joined(address):
        assert server.events.get(timeout=SECONDS).kind == "joined"
        begin = time.monotonic()
        assert server.events.get(timeout=SECONDS) == Event("left", HOST)  # it sends no heartbeat
        assert 1.0 < time.monotonic() - begin < 4.0


def test_addresses_that_cannot_be_listened_on(server: RendezvousServer, address: Address) -> None:
    for wrong, said in (
        (address, f"^IMAGE_PIPELINE_ADDRESS: {address} is in use by another program; choose "),
        (Address("192.0.2.1", 29400), "is not an address of this machine"),
        (Address("no-such-host.invalid", 29400), r"no-such-host.invalid: .*; give a name or addr"),
    ):
        with pytest.raises(HostError, match=said):
            RendezvousServer(wrong, TOKEN, FINGERPRINT)
    assert server.num_hosts == 1


def test_address_where_nothing_listens(address: Address) -> None:
    printed: list[str] = []
    client = CoordinatorClient(address, TOKEN, 1, printed.append)
    with pytest.raises(HostError, match=r"could not be reached for 1 s \(connection refused\);"):
        client.check(FINGERPRINT)
    assert printed == [f"{address} cannot be reached yet (connection refused)"]
