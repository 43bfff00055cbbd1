"""Your own images: a folder, or an archive of one, with a folder for each class."""

import errno
import hashlib
import re
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from image_pipeline.common.errors import DataError, ParamsError, one_line
from image_pipeline.common.params import Params
from image_pipeline.downloading.archives import pack
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files
from image_pipeline.downloading.sources import max_archive_bytes

FILE = "images.tar"
PLACEHOLDER = Path("images/README.md")  # the committed value of `path`
MAX_NAME_LENGTH = 100  # characters of a downloaded archive's name that are kept
DOWNLOADED = "fetched"  # the folder of a downloaded archive until its images are in FILE


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    """Pack the images into one tar file.

    Raises:
        DataError: the archive, or a file in it, is refused.
        ParamsError: there is a url without a sha256, or the path cannot be used.
    """
    source = params.download.folder
    if not source.url:
        path = Path(source.path)
        _check_path(path)
        if source.sha256:
            _check_digest(path, source.sha256)
        pack(path, folder / FILE)
        return
    if not source.sha256:
        raise ParamsError(
            "params.yaml: download.folder.sha256: missing; an archive from a url needs it "
            "(`sha256sum` prints it)"
        )
    name = PurePosixPath(unquote(urlsplit(source.url).path)).name
    name = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-MAX_NAME_LENGTH:].lstrip(".") or "archive"
    archive = RemoteFile(name, source.sha256, url=source.url, max_bytes=max_archive_bytes())
    fetch_files([archive], [], folder / DOWNLOADED, mirror)
    pack(folder / DOWNLOADED / name, folder / FILE)
    shutil.rmtree(folder / DOWNLOADED)


def read(folder: Path, params: Params) -> RawDataset:
    """Decode all images into a nameless temporary file beside `folder`."""
    from image_pipeline.reading.image_folder import read_image_folder

    source = params.download.folder
    return read_image_folder(
        folder / FILE, source.url or source.path, params.tensorize.folder, params.tensorize.seed
    )


def _check_path(path: Path) -> None:
    key = "params.yaml: download.folder.path"
    if path == PLACEHOLDER:
        raise ParamsError(
            f"{key}: {path} holds no images; put yours into images/, one folder per class, and add "
            "`-S download.folder.path=images`, or name another folder, or an archive"
        )
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            shown = one_line(path, 80)
            raise ParamsError(
                f"{key}: {shown}: {error.strerror}; name a folder of images, or an archive"
            ) from None


def _check_digest(path: Path, expected: str) -> None:
    if path.is_dir():
        raise ParamsError(
            f"params.yaml: download.folder.sha256: {path} is a folder, which has none; empty it"
        )
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError(f"{path}: not found; see download.folder.path in params.yaml") from None
    if found != expected:
        raise DataError(
            f"{path}: its SHA-256 is {found}, not download.folder.sha256; get the right file, or "
            "correct the key"
        )
