"""Fetch files whose checksums are known from a list of mirrors that may be down, slow or wrong.

Each mirror is asked in turn. Time is bounded from outside the network libraries, in whose own
timeouts every address of a name and every byte counts anew; memory and disk are bounded by the
file's known size. A file lands under its name only when its checksums are right.
"""

import hashlib
import http.client
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.parse import urljoin

import requests
import urllib3
from tqdm import tqdm

from image_pipeline.common.errors import DownloadError, one_line
from image_pipeline.common.files import PARTIAL_SUFFIX, replacing

CONNECT_TIMEOUT = 4.0  # seconds, for each address of a name
READ_TIMEOUT = 8.0  # seconds without a byte; also until the first one, name look-up and all
FILE_TIMEOUT = 900.0  # seconds for one file from one mirror, unless the file has its own
SLOWEST = 1024.0  # bytes per second on average, once the time below is over
SLOW_AFTER = 30.0  # seconds
ATTEMPTS = 2  # per mirror, for faults that may pass
PASSING = 2.0  # seconds; what took longer to fail is not tried a second time
LONGEST_PAUSE = 5.0  # seconds; a server that asks for more is left for the next mirror
PAUSE = 0.5  # seconds before a second attempt
MOST_REDIRECTS = 5
MOST_BYTES = 1 << 31  # of a file whose size nobody has told
CHUNK = 1 << 16
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class RemoteFile:
    """A file's name, and what is known of it.

    Attributes:
        name: as it is called on every mirror and here.
        md5: what its bytes must hash to, hexadecimal; this or the next must be known.
        sha256: the same, stronger, where it is known.
        size: in bytes, where it is known; else no more than `MOST_BYTES` are taken.
        timeout: seconds for it from one mirror, where it is so large that it needs more than
            `FILE_TIMEOUT`.
        url: where it is published under an address of its own, asked after the mirrors.
    """

    name: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    timeout: float | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        if not (self.md5 or self.sha256):
            raise ValueError(f"no checksum of {self.name}")

    @property
    def most_bytes(self) -> int:
        """How many bytes may come before it is clear that they are not this file's."""
        return MOST_BYTES if self.size is None else self.size

    def has_digests(self, md5: str, sha256: str) -> bool:
        """Tell whether bytes with these digests are this file's."""
        return self.md5 in (None, md5) and self.sha256 in (None, sha256)


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
                with replacing(folder / file.name) as target:
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


def _receive(
    file: RemoteFile,
    source: str,
    target: BinaryIO,
    bar: "tqdm[NoReturn]",
) -> None:
    """Write the file's bytes to `target`; fail unless they are the right ones, and no more."""
    digests = _md5(), hashlib.sha256()
    received = 0
    for chunk in _chunks(file, source):
        received += len(chunk)
        if received > file.most_bytes:
            raise _FetchError(f"longer than the expected {file.most_bytes} bytes")
        for digest in digests:
            digest.update(chunk)
        target.write(chunk)
        bar.update(len(chunk))
    if file.size and received < file.size:
        raise _FetchError(f"ended after {received} of {file.size} bytes", again=PAUSE)
    if not file.has_digests(*(digest.hexdigest() for digest in digests)):
        raise _FetchError("its checksum is wrong: the mirror holds another file")


def _chunks(file: RemoteFile, source: str) -> Iterator[bytes]:
    if _is_url(source):
        yield from _in_time(
            _remote_chunks(_address(source, file), file), file.timeout or FILE_TIMEOUT
        )
    elif SCHEME.match(source):
        raise _FetchError("neither an http(s) address nor the path of a folder")
    else:
        yield from _local_chunks(Path(source) / file.name)


def _in_time(chunks: Iterator[bytes], timeout: float) -> Iterator[bytes]:
    """Pass on what a thread takes from `chunks`; fail when it is too slow.

    The timeouts of requests hold for one address of a name and for one byte: a name server that is
    silent, a name with many addresses, or a header that comes byte by byte outlasts them. A thread
    that is given up ends with its next byte, its own timeout, or this process.
    """
    arrived: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    given_up = threading.Event()

    def work() -> None:
        try:
            for chunk in chunks:
                arrived.put(chunk)
                if given_up.is_set():
                    break
            arrived.put(b"")
        except Exception as error:  # raised again in the thread that waits for it
            arrived.put(error)

    threading.Thread(target=work, daemon=True).start()
    start, received = time.monotonic(), 0
    try:
        while True:
            try:
                item = arrived.get(timeout=READ_TIMEOUT)
            except queue.Empty:
                what = "stalled" if received else "no answer"
                raise _FetchError(f"{what} within {READ_TIMEOUT:.0f} s") from None
            if isinstance(item, Exception):
                raise item
            if not item:
                return
            yield item
            received += len(item)
            elapsed = time.monotonic() - start
            if elapsed > timeout:
                raise _FetchError(f"not finished after {timeout:.0f} s")
            if elapsed > SLOW_AFTER and received < SLOWEST * elapsed:
                raise _FetchError(f"too slow: {received} bytes in {elapsed:.0f} s")
    finally:
        given_up.set()


def _remote_chunks(address: str, file: RemoteFile) -> Iterator[bytes]:
    """Yield what is at `address`, up to the first chunk beyond the file's size."""
    start = time.monotonic()
    try:
        with _Session() as session, _open(address, session) as response:
            length = response.headers.get("Content-Length", str(file.size))
            if file.size is not None and length != str(file.size):
                kind = response.headers.get("Content-Type", "unknown type")
                found = one_line(f"{length} bytes of {kind}", 80)
                raise _FetchError(f"{found}, not the expected {file.size} bytes: another file")
            received, most = 0, file.most_bytes
            # read1 returns what has arrived: read would wait for a whole chunk, however slow.
            while received <= most and (chunk := response.raw.read1(CHUNK, decode_content=False)):
                received += len(chunk)
                yield chunk
    except requests.ConnectTimeout:
        raise _FetchError(f"no connection within {CONNECT_TIMEOUT:.0f} s") from None
    except requests.Timeout:
        raise _FetchError(f"no answer within {READ_TIMEOUT:.0f} s") from None
    except requests.exceptions.ProxyError as error:
        cause = f"the proxy that HTTP_PROXY or HTTPS_PROXY names: {_root_cause(error)}"
        raise _FetchError(f"no connection through {cause}") from None
    except requests.ConnectionError as error:
        again = PAUSE if time.monotonic() - start < PASSING else None
        raise _FetchError(f"no connection ({_root_cause(error)})", again) from None
    except urllib3.exceptions.ReadTimeoutError:
        raise _FetchError(f"stalled for {READ_TIMEOUT:.0f} s in mid-file") from None
    except (urllib3.exceptions.LocationValueError, requests.RequestException) as error:
        raise _FetchError(f"not a usable address or answer ({_root_cause(error)})") from None
    except (urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
        raise _FetchError(f"broke off ({_root_cause(error)})", again=PAUSE) from None
    except (OSError, ValueError) as error:  # such as a certificate bundle that is not there
        raise _FetchError(f"cannot be asked ({_root_cause(error)})") from None


def _open(address: str, session: requests.Session) -> requests.Response:
    """Ask for `address` and follow redirects without reading their bodies."""
    for _ in range(MOST_REDIRECTS + 1):
        response = session.get(
            address,
            stream=True,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
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
    raise _FetchError(f"more than {MOST_REDIRECTS} redirects")


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
    if pause > LONGEST_PAUSE:
        return _FetchError(f"{reason}; it asks to come back in {pause:.0f} s")
    return _FetchError(reason, again=pause)


def _is_right(path: Path, file: RemoteFile) -> bool:
    try:
        if file.size is not None and path.stat().st_size != file.size:
            return False
        with path.open("rb") as local:
            if file.sha256:
                return hashlib.file_digest(local, "sha256").hexdigest() == file.sha256
            return hashlib.file_digest(local, _md5).hexdigest() == file.md5
    except OSError:
        return False


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def _is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _address(source: str, file: RemoteFile) -> str:
    if SCHEME.match(source) and not _is_url(source):
        return source
    if source == file.url:
        return source
    return f"{source.rstrip('/')}/{file.name}" if _is_url(source) else str(Path(source) / file.name)


def _root_cause(error: BaseException) -> str:
    """Return the innermost reason in words: requests wraps urllib3's errors around the socket's."""
    while inner := error.__cause__ or error.__context__ or getattr(error, "reason", None):
        if not isinstance(inner, BaseException):
            break
        error = inner
    return one_line(getattr(error, "strerror", None) or error) or type(error).__name__
