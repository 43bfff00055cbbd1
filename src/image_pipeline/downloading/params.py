"""The block `download` of params.yaml."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from image_pipeline.common.schema import Block, file_name

URL = r"^(https?://[!-~]+)?$"
SHA256 = r"^([0-9a-f]{64})?$"


class DownloadFolderParams(Block):
    """Where the images of the data set `folder` come from."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    url: Annotated[str, Field(pattern=URL, max_length=4096)]
    sha256: Annotated[str, Field(pattern=SHA256)]

    @field_validator("url")
    @classmethod
    def _has_host(cls, url: str) -> str:
        try:
            valid = bool(not url or urlsplit(url).hostname)
        except ValueError:  # such as for `http://[`
            valid = False
        if not valid:
            raise ValueError("it must be an http(s) address with a host, or empty")
        return url


class DownloadParams(Block):
    """Which data set to download."""

    dataset: Annotated[str, file_name("datasets")]
    folder: DownloadFolderParams
