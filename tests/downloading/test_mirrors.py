"""Downloads from servers on this machine that misbehave in every way a server can."""

import gzip
import hashlib
import os
import re
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from image_pipeline.common.errors import DownloadError
from image_pipeline.datasets.mnist import SHA256_AND_SIZE
from image_pipeline.downloading import mirrors
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files
from project import SHARED_MNIST, Project, require, serving, unused_port
from refusals import said_by

CONTENT = bytes(range(256)) * 1200  # several chunks
NAME = "digits.bin"
FILE = RemoteFile(NAME, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
Behaviour = Callable[["Handler"], object]
Serve = Callable[[Behaviour], str]


class Handler(BaseHTTPRequestHandler):
    """Answers as its class's `behaviour` has it, until `closing` is set."""

    protocol_version = "HTTP/1.1"
    behaviour: Behaviour
    closing: threading.Event

    def do_GET(self) -> None:
        self.close_connection = True
        try:
            type(self).behaviour(self)
        except (BrokenPipeError, ConnectionResetError):
            self.closing.wait(0.01)  # the client has had enough, as it should

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten every wait, and keep the machine's own proxies out."""
    monkeypatch.setattr(mirrors, "CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr(mirrors, "READ_TIMEOUT", 0.5)
    monkeypatch.setattr(mirrors, "PAUSE", 0.01)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def closing() -> Iterator[threading.Event]:
    """Return an event that tells the servers' endless answers to end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def serve(closing: threading.Event) -> Iterator[Serve]:
    """Return a function that starts a server with a behaviour and returns its address."""
    servers = []

    def start(behaviour: Behaviour) -> str:
        facts = {"behaviour": behaviour, "closing": closing}
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (Handler,), facts))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/mnist/"

    yield start
    closing.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(handler: Handler, body: bytes = CONTENT, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    headers.setdefault("Content_Length", str(len(body)))
    for name, value in headers.items():
        if value:
            handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def fetch(folder: Path, *mirrors: str, first: str | None = None) -> None:
    fetch_files([FILE], mirrors, folder, first)


def failure(folder: Path, mirror: str) -> str:
    """Return the message of the DownloadError that `mirror` leads to; nothing may be left behind.

    The message must be one line that names the address and what to do.
    """
    before = time.monotonic()
    message = said_by(DownloadError, fetch, folder, mirror)
    assert time.monotonic() - before < 20  # not a matter of speed: nothing waits without a limit
    assert not list(folder.iterdir())
    assert message.startswith(f"{NAME} could not be downloaded from any mirror: {mirror}{NAME}: ")
    assert "DATASET_MIRROR" in message
    assert "make demo" in message
    return message


def test_a_good_mirror_is_asked_once_for_the_bytes_as_they_are(
    tmp_path: Path, serve: Serve
) -> None:
    asked = []

    def good(handler: Handler) -> None:
        asked.append((handler.path, handler.headers["Accept-Encoding"]))
        answer(handler)

    address = serve(good)
    fetch(tmp_path / "raw", address)
    assert (tmp_path / "raw" / NAME).read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [NAME]
    fetch(tmp_path / "raw", address)  # what is there and right is kept
    fetch(tmp_path / "other", address.rstrip("/"))
    assert asked == [(f"/mnist/{NAME}", "identity")] * 2


def stall(handler: Handler) -> None:
    answer(handler, CONTENT[:100_000], Content_Length=str(len(CONTENT)))
    handler.closing.wait(20)


def repeat(content: bytes, seconds: float, start: bytes = b"") -> Behaviour:
    """Send `start`, then the content every so many seconds, without an end."""

    def behave(handler: Handler) -> None:
        handler.wfile.write(start)
        while not handler.closing.wait(seconds):
            handler.wfile.write(content)

    return behave


def endless(start: bytes) -> Behaviour:
    return repeat(bytes(1 << 16), 0, start)


OK = b"HTTP/1.1 200 OK\r\n"
REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nConnection: close\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = str(len(CONTENT))
BOMB = gzip.compress(bytes(200 << 20), 9)[: len(CONTENT)]  # unpacks to a thousand times its size
LONGER = f"longer than the expected {WHOLE} bytes"
ENDED = f"ended after {len(CONTENT) - 1} of {WHOLE} bytes"
LATER = "HTTP status 503 Service Unavailable; it asks to retry after 3600 s"
ELSEWHERE = "it redirects to file:///etc/passwd, which is not http or https"
SIGN_IN = f"32 bytes of text/html, not the expected {WHOLE} bytes: a different file"
ANOTHER = "its checksum is wrong: the mirror holds a different file"

FAULTS: list[tuple[str, Behaviour]] = [
    ("stalled", stall),
    # Fast enough for a socket's timeout.
    ("no answer within", repeat(b"x", 0.05, OK + b"X: ")),
    ("no answer within", repeat(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02)),
    ("connection lost", lambda h: answer(h, CONTENT[:-1], Content_Length=WHOLE)),
    (ENDED, lambda h: answer(h, CONTENT[:-1], Content_Length="")),
    ("no connection", lambda h: h.wfile.write(b"")),
    ("no connection", lambda h: h.wfile.write(b"\x00\xff\x1b[31m!\n\n" * 9)),
    ("HTTP status 418 ?[2J?boo", lambda h: h.wfile.write(b"HTTP/1.1 418 \x1b[2J\x07boo\r\n\r\n")),
    ("HTTP status 206", lambda h: answer(h, status=206)),
    (LATER, lambda h: answer(h, b"", 503, Retry_After="3600")),
    ("HTTP status 503", lambda h: answer(h, b"", 503, Retry_After="²")),
    ("HTTP status 302", lambda h: answer(h, b"", 302)),
    (ELSEWHERE, lambda h: answer(h, b"", 301, Location="file:///etc/passwd")),
    ("request failed", lambda h: answer(h, b"", 302, Location="http://[::1")),
    ("(", lambda h: answer(h, b"", 302, Location="http://\xff\xfe/")),
    ("more than 5 redirects", endless(REDIRECT)),
    (SIGN_IN, lambda h: answer(h, b"<html>Sign in to the hotel's net", Content_Type="text/html")),
    (LONGER, lambda h: answer(h, CONTENT + b"?", Content_Length="")),
    (ANOTHER, lambda h: answer(h, BOMB.ljust(len(CONTENT), b"\0"), Content_Encoding="gzip")),
    (LONGER, endless(OK + b"\r\n")),
    ("no connection", endless(OK + b"X: ")),
    (LONGER, endless(CHUNKED + b"-1\r\n")),
    ("connection lost", endless(CHUNKED + b"zz\r\n")),
    ("(longer|connection lost|request failed)", endless(CHUNKED + b"FFFFFFFFFFFFFFFFF\r\n")),
]


@pytest.mark.parametrize(("cause", "behaviour"), FAULTS)
def test_a_faulty_mirror_is_named_with_the_cause_and_the_next_one_makes_good(
    cause: str,
    behaviour: Behaviour,
    tmp_path: Path,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad, good = serve(behaviour), serve(answer)
    (tmp_path / NAME).write_bytes(CONTENT[:-1] + b"!")
    (tmp_path / f"{NAME}.partial").write_bytes(b"left by a run that was killed")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    fetch(tmp_path, bad, good)
    assert time.monotonic() - start < 20  # not a matter of speed: nothing waits without a limit
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << 10  # KiB
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).read_bytes() == CONTENT
    [told] = [line for line in capsys.readouterr().err.split("\n") if "WARNING" in line]
    told = told.rpartition("\r")[2]
    assert told.isprintable()
    found = told.removeprefix(f"WARNING: {bad}{NAME}: ")
    assert found.endswith("; downloaded from the next mirror")
    assert re.search(cause if cause.startswith("(l") else re.escape(cause), found), told


def test_a_slow_trickle_is_left_for_the_next_mirror(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "SLOW_AFTER", 0.4)
    for start in (b"", CONTENT[:-1000]):  # what came quickly before is no credit
        behaviour = repeat(b"x", 0.02, OK + b"\r\n" + start)
        assert "too slow: " in failure(tmp_path, serve(behaviour))


def test_time_is_bounded_by_progress_alone(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steady(handler: Handler) -> None:
        handler.wfile.write(OK + b"\r\n")
        for start in range(0, len(CONTENT), 20_000):
            handler.wfile.write(CONTENT[start : start + 20_000])
            time.sleep(0.1)

    monkeypatch.setattr(mirrors, "SLOW_AFTER", 0.2)
    fetch(tmp_path, serve(steady))
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_file_may_have_as_many_bytes_as_it_is_allowed(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setattr(mirrors, "MAX_BYTES", 1000)
    for allowed, limit in ((len(CONTENT) - 1, len(CONTENT) - 1), (None, 1000)):
        file = RemoteFile(NAME, sha256, max_bytes=allowed)
        with pytest.raises(DownloadError, match=f"longer than the expected {limit} bytes"):
            fetch_files([file], [serve(answer)], tmp_path, None)
    enough = RemoteFile(NAME, sha256, max_bytes=len(CONTENT))
    fetch_files([enough], [serve(answer)], tmp_path, None)
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_fault_that_passes_is_tried_a_second_time_and_no_third(
    tmp_path: Path, serve: Serve
) -> None:
    asked = []

    def later(handler: Handler) -> None:
        asked.append(time.monotonic())
        answer(handler, b"", 503, Retry_After="1")

    answers = iter([later, answer])
    fetch(tmp_path, serve(lambda handler: next(answers)(handler)))
    assert time.monotonic() - asked[0] >= 1  # the second that the server asked for
    assert (tmp_path / NAME).read_bytes() == CONTENT
    failure(tmp_path / "other", serve(later))
    assert len(asked) == 3


def test_redirects_to_http_are_followed(tmp_path: Path, serve: Serve) -> None:
    good = serve(answer)
    fetch(tmp_path, serve(lambda handler: answer(handler, b"", 302, Location=f"{good}x")))
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("mirror", "cause"),
    [
        ("http://no-such-host.invalid/", "no "),
        (f"http://{'a' * 64}.invalid/", "invalid address"),
        ("http://?/", "invalid address"),
        ("http://[::1/", ""),
        ("http://127.0.0.1:99999/", ""),
    ],
)
def test_an_address_that_leads_nowhere(mirror: str, cause: str, tmp_path: Path) -> None:
    assert cause in failure(tmp_path, mirror)


def test_a_dead_proxy_is_named(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = serve(answer)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    message = failure(tmp_path, address)
    assert "no connection through the proxy that HTTP_PROXY or HTTPS_PROXY names" in message
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(tmp_path, address)


def test_a_missing_certificate_bundle_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    assert "/no/such/bundle.pem" in failure(tmp_path, f"https://127.0.0.1:{unused_port()}/")


def test_every_mirror_that_failed_is_named(tmp_path: Path, serve: Serve) -> None:
    first = tmp_path / "nothing-here"
    missing = serve(lambda handler: answer(handler, b"", 404))
    mirrors = (missing, f"http://127.0.0.1:{unused_port()}/")
    message = said_by(DownloadError, fetch, tmp_path / "raw", *mirrors, first=str(first))
    assert f"{first / NAME}: No such file or directory; {missing}{NAME}: HTTP status 404" in message
    assert "Connection refused" in message
    assert not (tmp_path / "raw" / NAME).exists()


@pytest.mark.parametrize("left", [b"?" + CONTENT[1:], CONTENT[:-1], CONTENT, None])
def test_what_was_left_before_is_kept_only_if_it_is_right(
    left: bytes | None, tmp_path: Path
) -> None:
    if left is None:
        (tmp_path / NAME).symlink_to(tmp_path / "nothing")
    else:
        (tmp_path / NAME).write_bytes(left)
    (tmp_path / f"{NAME}.partial").write_bytes(CONTENT[:99])
    if left == CONTENT:
        fetch(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
    else:
        failure(tmp_path, f"http://127.0.0.1:{unused_port()}/")


@pytest.mark.parametrize(
    ("mirror", "told"),
    [
        ("", "from any mirror: . Check"),
        ("x" * 5000, "File name too long"),
        ("FTP://127.0.0.1/", "FTP://127.0.0.1/: neither an http(s) address nor the path of a fol"),
    ],
)
def test_a_first_mirror_that_is_none(mirror: str, told: str, tmp_path: Path) -> None:
    assert told in said_by(DownloadError, fetch, tmp_path, first=mirror)


def test_local_folders(tmp_path: Path) -> None:
    folder, raw = tmp_path / "local", tmp_path / "raw"
    folder.mkdir()
    os.mkfifo(folder / NAME)  # reading it would wait for ever
    assert "not a regular file" in said_by(DownloadError, fetch, raw, first=str(folder))
    (folder / NAME).unlink()
    (folder / NAME).write_bytes(CONTENT)
    fetch(raw, first=f"{folder}/")
    assert (raw / NAME).read_bytes() == CONTENT


# The stage itself.


def mnist_stage(project: Project, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the stage where the public mirrors refuse every connection."""
    closed = f"http://127.0.0.1:{unused_port()}"
    env |= {"http_proxy": closed, "https_proxy": closed, "no_proxy": "127.0.0.1"}
    project.set_params({"download.dataset": "mnist"})
    return project.stage("download", env=env, check=False, timeout=30)


def downloaded(project: Project) -> dict[str, str]:
    return {name: digest for name, digest in project.hashes().items() if name.startswith("data/")}


@pytest.mark.slow
def test_the_stage_takes_mnist_from_a_server(project: Project) -> None:
    require(SHARED_MNIST.is_dir(), str(SHARED_MNIST))
    with serving(SHARED_MNIST.parent) as address:
        done = mnist_stage(project, DATASET_MIRROR=f"{address}/{SHARED_MNIST.name}")
    assert done.stdout == "download: mnist is in data/raw, every file checked\n"
    right = {f"data/raw/{name}": digest for name, (digest, _) in SHA256_AND_SIZE.items()}
    assert downloaded(project) == right


@pytest.mark.slow
def test_the_stage_names_every_mirror_it_tried_within_half_a_minute(project: Project) -> None:
    mirror = f"http://127.0.0.1:{unused_port()}/x/"
    done = mnist_stage(project, DATASET_MIRROR=mirror)
    assert (done.returncode, done.stdout) == (1, "")
    message = done.stderr.splitlines()[-1]
    name = "train-images-idx3-ubyte.gz"
    assert message.startswith(
        f"download: error: {name} could not be downloaded from any mirror: "
        f"{mirror}{name}: no connection (Connection refused); "
        f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}: no "
    )
    assert message.count("no connection through the proxy") == 2
    assert "DATASET_MIRROR" in message
    assert "make demo" in message
    assert "Traceback" not in done.stderr
    assert downloaded(project) == {}
