"""Fetch files whose checksums are known from a list of mirrors that may be down, slow or wrong.

Each mirror is asked in turn. Time is bounded by a connect and a read timeout, a few attempts and a
limit per file; memory and disk by the file's known size. A file lands under its name only when its
checksums are right.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import requests
import urllib3
from tqdm import tqdm

from image_pipeline.errors import DownloadError
from image_pipeline.files import replacing

CONNECT_TIMEOUT = 4.0  # seconds
READ_TIMEOUT = 8.0  # seconds without a byte
FILE_TIMEOUT = 900.0  # seconds for one file from one mirror
ATTEMPTS = 2  # per mirror, for faults that may pass
LONGEST_PAUSE = 5.0  # seconds; a server that asks for more is left for the next mirror
PAUSE = 0.5  # seconds before a second attempt
CHUNK = 1 << 16


@dataclass(frozen=True)
class RemoteFile:
    """A file's name, what its bytes must hash to (hexadecimal), and its size in bytes."""

    name: str
    md5: str
    sha256: str
    size: int


class _FetchError(Exception):
    """One attempt failed; `again` seconds from now it may not, or never when that is None."""

    def __init__(self, reason: str, again: float | None = None) -> None:
        super().__init__(reason)
        self.again = again


def fetch_files(
    files: Sequence[RemoteFile], mirrors: Sequence[str], folder: Path, first_mirror: str | None
) -> None:
    """Bring `files` into `folder`; those that are there and right are kept.

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
    with (
        tqdm(
            total=sum(file.size for file in missing), unit="B", unit_scale=True, desc="download"
        ) as bar,
        requests.Session() as session,
    ):
        for file in missing:
            bar.set_postfix_str(file.name)
            _fetch(file, sources, folder, session, bar)


def _fetch(
    file: RemoteFile,
    sources: Sequence[str],
    folder: Path,
    session: requests.Session,
    bar: "tqdm[NoReturn]",
) -> None:
    failures = []
    for source in sources:
        for attempt in range(1, ATTEMPTS + 1):
            before = bar.n
            try:
                with replacing(folder / file.name) as target:
                    _receive(file, source, session, target, bar)
                return
            except _FetchError as failure:
                bar.update(before - bar.n)
                last = attempt == ATTEMPTS or failure.again is None
                if last:
                    failures.append(f"{_address(source, file)}: {failure}")
                    break
                time.sleep(failure.again or 0)
    listed = "\n  ".join(failures)
    raise DownloadError(
        f"{file.name} could not be had from any mirror:\n  {listed}\n"
        "Check the network, or set DATASET_MIRROR to an http(s) address or a local folder that has "
        "the files; `make demo` runs the whole pipeline without a download."
    )


def _receive(
    file: RemoteFile,
    source: str,
    session: requests.Session,
    target: BinaryIO,
    bar: "tqdm[NoReturn]",
) -> None:
    """Write the file's bytes to `target`; fail unless they are the right ones, and no more."""
    digests = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    received = 0
    for chunk in _chunks(file, source, session):
        received += len(chunk)
        if received > file.size:
            raise _FetchError(f"longer than the expected {file.size} bytes")
        for digest in digests:
            digest.update(chunk)
        target.write(chunk)
        bar.update(len(chunk))
    if received < file.size:
        raise _FetchError(f"ended after {received} of {file.size} bytes", again=PAUSE)
    if [digest.hexdigest() for digest in digests] != [file.md5, file.sha256]:
        raise _FetchError("its checksum is wrong: the mirror holds another file")


def _chunks(file: RemoteFile, source: str, session: requests.Session) -> Iterator[bytes]:
    if not _is_url(source):
        yield from _local_chunks(Path(source) / file.name)
        return
    deadline = time.monotonic() + FILE_TIMEOUT
    try:
        with session.get(
            _address(source, file),
            stream=True,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            # The bytes as they are: no transfer compression that could hide a bomb.
            headers={"Accept-Encoding": "identity"},
        ) as response:
            _check_status(response)
            while chunk := response.raw.read(CHUNK, decode_content=False):
                yield chunk
                if time.monotonic() > deadline:
                    raise _FetchError(f"not finished after {FILE_TIMEOUT:.0f} s")
    except requests.TooManyRedirects:
        raise _FetchError("it redirects in a circle") from None
    except requests.ConnectTimeout:
        raise _FetchError(f"no connection within {CONNECT_TIMEOUT:.0f} s") from None
    except requests.Timeout:
        raise _FetchError(f"no answer within {READ_TIMEOUT:.0f} s") from None
    except requests.ConnectionError as error:
        raise _FetchError(f"no connection ({_root_cause(error)})", again=PAUSE) from None
    except requests.RequestException as error:
        raise _FetchError(f"not a usable address or answer ({_root_cause(error)})") from None
    except urllib3.exceptions.ReadTimeoutError:
        raise _FetchError(f"stalled for {READ_TIMEOUT:.0f} s in mid-file") from None
    except urllib3.exceptions.HTTPError as error:
        raise _FetchError(f"broke off ({_root_cause(error)})", again=PAUSE) from None


def _local_chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as local:
            while chunk := local.read(CHUNK):
                yield chunk
    except OSError as error:
        raise _FetchError(error.strerror or str(error)) from None


def _check_status(response: requests.Response) -> None:
    if response.status_code == requests.codes.ok:
        return
    reason = f"HTTP status {response.status_code} {response.reason}"
    transient = response.status_code == 429 or response.status_code >= 500
    if not transient:
        raise _FetchError(reason)
    wait = response.headers.get("Retry-After", "")
    pause = float(wait) if wait.isdigit() else PAUSE
    if pause > LONGEST_PAUSE:
        raise _FetchError(f"{reason}; it asks to come back in {pause:.0f} s")
    raise _FetchError(reason, again=pause)


def _is_right(path: Path, file: RemoteFile) -> bool:
    try:
        if path.stat().st_size != file.size:
            return False
        with path.open("rb") as local:
            return hashlib.file_digest(local, "sha256").hexdigest() == file.sha256
    except OSError:
        return False


def _is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _address(source: str, file: RemoteFile) -> str:
    return f"{source.rstrip('/')}/{file.name}" if _is_url(source) else str(Path(source) / file.name)


def _root_cause(error: BaseException) -> str:
    """Return the innermost reason in words: requests wraps urllib3's errors around the socket's."""
    while inner := error.__cause__ or error.__context__ or getattr(error, "reason", None):
        if not isinstance(inner, BaseException):
            break
        error = inner
    return str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
