"""Fetch files whose checksums are known from a list of mirrors that may be down, slow or wrong.

Each mirror is asked in turn. Time is bounded from outside the network libraries, in whose own
timeouts every address of a name and every byte counts anew: a file may take as long as it likes
while it goes on. Memory and disk are bounded by its size. It lands under its name only when its
checksum is right.
"""

import hashlib
import http.client
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.parse import urljoin

import requests
import urllib3
from tqdm import tqdm

from image_pipeline.common.errors import DownloadError, one_line
from image_pipeline.common.files import PARTIAL_SUFFIX, atomic_write

CONNECT_TIMEOUT = 4.0  # seconds, for each address of a name
READ_TIMEOUT = 8.0  # seconds without a byte; also until the first one, name look-up and all
MIN_SPEED = 1024.0  # bytes per second, in every span of the time below
SLOW_AFTER = 30.0  # seconds
ATTEMPTS = 2  # per mirror, for faults that may pass
MAX_PAUSE = 5.0  # seconds; a server that asks for more is left for the next mirror
PAUSE = 0.5  # seconds before a second attempt
MAX_REDIRECTS = 5
MAX_BYTES = 1 << 31  # of a file of which nobody has told more
CHUNK = 1 << 16
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# What the libraries raise, the first that fits: in words, and whether it may pass.
FAULTS: tuple[tuple[tuple[type[Exception], ...], str, bool], ...] = (
    (
        (requests.exceptions.ProxyError,),
        "no connection through the proxy that HTTP_PROXY or HTTPS_PROXY names: {}",
        False,
    ),
    ((requests.ConnectionError,), "no connection ({})", True),
    (
        (urllib3.exceptions.LocationValueError, requests.RequestException),
        "not a usable address or answer ({})",
        False,
    ),
    ((urllib3.exceptions.HTTPError, http.client.HTTPException), "broke off ({})", True),
    ((OSError, ValueError), "cannot be asked ({})", False),  # a certificate bundle is missing
)


@dataclass(frozen=True)
class RemoteFile:
    """A file's name, and what is known of it.

    Attributes:
        name: as it is called on every mirror and here.
        md5: what its bytes must hash to, hexadecimal; this or the next must be known.
        sha256: the same, stronger; where it is known, it is what counts.
        size: in bytes, where it is known.
        url: where it is published under an address of its own, asked after the mirrors.
        most_bytes: that are taken of it where its size is not known; else `MAX_BYTES`.
    """

    name: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    url: str | None = None
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        if not (self.md5 or self.sha256):
            raise ValueError(f"no checksum of {self.name}")

    def new_digest(self) -> "hashlib._Hash":
        """Return what is to be given the bytes, and must then have the digest `expected`."""
        return hashlib.sha256() if self.sha256 else hashlib.md5(usedforsecurity=False)

    @property
    def expected(self) -> str | None:
        """See `new_digest`."""
        return self.sha256 or self.md5


class _FetchError(Exception):
    """One attempt failed; `again` seconds from now it may not, or never when that is None."""

    def __init__(self, reason: str, again: float | None = None) -> None:
        super().__init__(reason)
        self.again = again


class _Session(requests.Session):
    """Leaves redirects to `_open`: requests would read their bodies, however long, into memory."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """See requests; no redirect has a target."""


def fetch_files(
    files: Sequence[RemoteFile], mirrors: Sequence[str], folder: Path, first_mirror: str | None
) -> None:
    """Bring `files` into `folder`; those that are there and right are kept, wrong ones removed.

    Args:
        files: what to fetch.
        mirrors: http(s) addresses of folders that hold the files.
        folder: made if need be.
        first_mirror: an http(s) address or a local folder to ask before the mirrors, or None.

    Raises:
        DownloadError: no mirror delivered a file; names each one tried, and why it failed.
        OSError: the folder cannot be written to.
    """
    sources = [*([first_mirror] if first_mirror else []), *mirrors]
    missing = [file for file in files if not _is_right(folder / file.name, file)]
    for file in files:  # what a broken run, or another version, may have left
        (folder / (file.name + PARTIAL_SUFFIX)).unlink(missing_ok=True)
    for file in missing:
        (folder / file.name).unlink(missing_ok=True)
    with tqdm(
        total=sum(file.size or 0 for file in missing) or None,
        unit="B",
        unit_scale=True,
        desc="download",
    ) as bar:
        for file in missing:
            bar.set_postfix_str(file.name)
            _fetch(file, [*sources, *([file.url] if file.url else [])], folder, bar)


def _fetch(file: RemoteFile, sources: Sequence[str], folder: Path, bar: "tqdm[NoReturn]") -> None:
    failures: list[str] = []
    for source in sources:
        for attempt in range(1, ATTEMPTS + 1):
            before = bar.n
            try:
                with atomic_write(folder / file.name) as target:
                    _receive(file, source, target, bar)
            except _FetchError as failure:
                bar.update(before - bar.n)
                if attempt == ATTEMPTS or failure.again is None:
                    failures.append(f"{_address(source, file)}: {failure}")
                    break
                time.sleep(failure.again)
            else:
                for line in failures:
                    tqdm.write(f"WARNING: {line}; taken from the next mirror", file=sys.stderr)
                return
    raise DownloadError(
        f"{file.name} could not be had from any mirror: {'; '.join(failures)}. "
        "Check the network, or set DATASET_MIRROR to an http(s) address or a local folder that has "
        "the files; `make demo` runs the whole pipeline without a download"
    )


def _receive(file: RemoteFile, source: str, target: BinaryIO, bar: "tqdm[NoReturn]") -> None:
    """Write the file's bytes to `target`; fail unless they are the right ones, and no more."""
    if _is_url(source):
        chunks = _in_time(_remote_chunks(_address(source, file), file))
    elif SCHEME.match(source):
        raise _FetchError("neither an http(s) address nor the path of a folder")
    else:
        chunks = _local_chunks(Path(source) / file.name)
    digest, received = file.new_digest(), 0
    most = file.size or file.most_bytes or MAX_BYTES
    for chunk in chunks:
        received += len(chunk)
        if received > most:
            raise _FetchError(f"longer than the expected {most} bytes")
        digest.update(chunk)
        target.write(chunk)
        bar.update(len(chunk))
    if file.size and received < file.size:
        raise _FetchError(f"ended after {received} of {file.size} bytes", again=PAUSE)
    if digest.hexdigest() != file.expected:
        raise _FetchError("its checksum is wrong: the mirror holds another file")


def _in_time(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass on what a thread takes from `chunks`; fail when it is too slow.

    The timeouts of requests hold for one address of a name and for one byte: a name server that is
    silent, a name with many addresses, or a header that comes byte by byte outlasts them. A thread
    that is given up ends with its next byte, its own timeout, or this process. It waits until its
    last chunks are taken, lest what nobody has written yet fill the memory.
    """
    arrived: queue.Queue[bytes | Exception] = queue.Queue(maxsize=16)
    given_up = threading.Event()

    def work() -> None:
        try:
            for chunk in chunks:
                arrived.put(chunk)
                if given_up.is_set():
                    return
            arrived.put(b"")
        except Exception as error:  # raised again in the thread that waits for it
            arrived.put(error)

    threading.Thread(target=work, daemon=True).start()
    start, received, any_yet = time.monotonic(), 0, False
    try:
        while True:
            try:
                item = arrived.get(timeout=READ_TIMEOUT)
            except queue.Empty:
                what = "stalled" if any_yet else "no answer"
                raise _FetchError(f"{what} within {READ_TIMEOUT:.0f} s") from None
            if isinstance(item, Exception):
                raise item
            if not item:
                return
            yield item
            received, any_yet = received + len(item), True
            elapsed = time.monotonic() - start
            if elapsed > SLOW_AFTER:
                if received < MIN_SPEED * elapsed:
                    raise _FetchError(f"too slow: {received} bytes in {elapsed:.0f} s")
                start, received = time.monotonic(), 0
    finally:
        given_up.set()
        with suppress(queue.Empty):  # so that a thread that waits for room ends
            arrived.get_nowait()


def _remote_chunks(address: str, file: RemoteFile) -> Iterator[bytes]:
    try:
        with _Session() as session, _open(address, session) as response:
            length = response.headers.get("Content-Length", str(file.size))
            if file.size is not None and length != str(file.size):
                kind = response.headers.get("Content-Type", "unknown type")
                found = one_line(f"{length} bytes of {kind}", 80)
                raise _FetchError(f"{found}, not the expected {file.size} bytes: another file")
            # read1 returns what has arrived: read would wait for a whole chunk, however slow.
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                yield chunk
    except tuple(kind for kinds, _, _ in FAULTS for kind in kinds) as error:
        words, passing = next((w, p) for kinds, w, p in FAULTS if isinstance(error, kinds))
        raise _FetchError(words.format(_root_cause(error)), PAUSE if passing else None) from None


def _open(address: str, session: requests.Session) -> requests.Response:
    """Ask for `address` and follow redirects without reading their bodies."""
    for _ in range(MAX_REDIRECTS + 1):
        response = session.get(
            address,
            stream=True,
            timeout=(CONNECT_TIMEOUT, 2 * READ_TIMEOUT),  # the latter ends a thread given up
            # The bytes as they are: no transfer compression that could hide a bomb.
            headers={"Accept-Encoding": "identity"},
        )
        if response.status_code == requests.codes.ok:
            return response
        response.close()
        target = response.headers.get("Location", "")
        if response.status_code not in (301, 302, 303, 307, 308) or not target:
            raise _bad_status(response)
        address = urljoin(address, target)
        if not _is_url(address):
            raise _FetchError(f"it redirects to {one_line(address)}, which is not http or https")
    raise _FetchError(f"more than {MAX_REDIRECTS} redirects")


def _local_chunks(path: Path) -> Iterator[bytes]:
    try:
        if path.exists() and not path.is_file():
            raise _FetchError("not a regular file")
        with path.open("rb") as local:
            while chunk := local.read(CHUNK):
                yield chunk
    except OSError as error:
        raise _FetchError(error.strerror or str(error)) from None


def _bad_status(response: requests.Response) -> _FetchError:
    reason = one_line(f"HTTP status {response.status_code} {response.reason}", 80)
    if response.status_code != 429 and response.status_code < 500:
        return _FetchError(reason)
    wait = response.headers.get("Retry-After", "")
    pause = float(wait) if re.fullmatch("[0-9]{1,9}", wait) else PAUSE
    if pause > MAX_PAUSE:
        return _FetchError(f"{reason}; it asks to come back in {pause:.0f} s")
    return _FetchError(reason, again=pause)


def _is_right(path: Path, file: RemoteFile) -> bool:
    try:
        if file.size not in (None, path.stat().st_size):
            return False
        with path.open("rb") as local:
            return hashlib.file_digest(local, file.new_digest).hexdigest() == file.expected
    except OSError:
        return False


def _is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _address(source: str, file: RemoteFile) -> str:
    if source == file.url or (SCHEME.match(source) and not _is_url(source)):
        return source
    return f"{source.rstrip('/')}/{file.name}" if _is_url(source) else str(Path(source) / file.name)


def _root_cause(error: BaseException) -> str:
    """Return the innermost reason in words: requests wraps urllib3's errors around the socket's."""
    while inner := error.__cause__ or error.__context__ or getattr(error, "reason", None):
        if not isinstance(inner, BaseException):
            break
        error = inner
    return one_line(getattr(error, "strerror", None) or error) or type(error).__name__
