"""What a user's images come in: the same files as a folder, a zip file or a tar file."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def write_zip(
    path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w", form: int = 2) -> None:
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1234567890
            archive.addfile(info, io.BytesIO(content))


def write_tar_gz(path: Path, files: Mapping[str, bytes]) -> None:
    write_tar(path, files, "w:gz")


WRITERS = {"folder": write_folder, "zip": write_zip, "tar": write_tar, "tar.gz": write_tar_gz}
