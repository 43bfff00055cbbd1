"""Environment variables of a run on several hosts. They change no result, so they are no params."""

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.files import write_bytes

PREFIX = "IMAGE_PIPELINE_"
MACHINES, ADDRESS, TOKEN, WAIT = (
    f"{PREFIX}{name}" for name in ("MACHINES", "ADDRESS", "TOKEN", "WAIT")
)
WORKER = f"{PREFIX}WORKER"  # set by the agent for the worker: JSON
CHECKPOINT_COUNT = "checkpoints"  # key in the store: how many the coordinator saved in this round
MAX_HOSTS = 64
DEFAULT_WAIT = 300  # seconds
MAX_WAIT = 86_400
MIN_TOKEN_LENGTH = 16  # characters
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - refused


@dataclass(frozen=True)
class Address:
    """Where the coordinator listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, name: str) -> "Address":
        """Parse `host:port`, or `[host]:port` for IPv6.

        Raises:
            ParamsError: it is neither; the message begins with `name`.
        """
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/@]+):([0-9]{1,5})", text)
        if not found or not 0 < int(found[2]) < 1 << 16:
            raise ParamsError(
                f"{name}: '{one_line(text, 60)}' is not an address; give the coordinator's host "
                "and a free port, such as 192.168.1.5:29400"
            )
        host = found[1].strip("[]")
        if host in WILDCARDS:
            raise ParamsError(
                f"{name}: {host} stands for every network of this machine; give the one address "
                "at which the other machines can reach it"
            )
        return cls(host, int(found[2]))


@dataclass(frozen=True)
class CoordinatorSettings:
    """Settings of a run on several hosts, on its coordinator.

    Attributes:
        min_hosts: hosts, the coordinator included, below which training waits.
        max_hosts: hosts that train at once.
        address: where the coordinator listens.
        token: the secret that all hosts know; None to generate one.
        wait: seconds to wait while there are fewer than `min_hosts`.
    """

    min_hosts: int
    max_hosts: int
    address: Address
    token: str | None
    wait: int

    @classmethod
    def from_environment(
        cls, numerics: Literal["portable", "fast"]
    ) -> "CoordinatorSettings | None":
        """Read the environment variables.

        Args:
            numerics: `train.numerics` of params.yaml.

        Returns:
            None for a run on a single host, and in a worker.

        Raises:
            ParamsError: a variable has a wrong value, or is missing.
        """
        if not (machines := os.environ.get(MACHINES)) or WORKER in os.environ:
            return None
        found = re.fullmatch(r"([0-9]{1,4})(?::([0-9]{1,4}))?", machines)
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most <= MAX_HOSTS or most < 2:
            raise ParamsError(
                f"{MACHINES}: '{one_line(machines, 60)}' is not allowed: it must be a number of "
                f"machines, 2 to {MAX_HOSTS}, or a minimum and a maximum, such as 2:4"
            )
        if not os.environ.get(ADDRESS):
            raise ParamsError(
                f"{ADDRESS} is missing, {MACHINES} needs it; give the address and a free port at "
                "which the other machines can reach this one, such as 192.168.1.5:29400"
            )
        if numerics == "fast":
            raise ParamsError(
                "train.numerics: fast has bits that depend on the processor, so machines cannot "
                f"share a run; set it to portable, or unset {MACHINES}"
            )
        address = Address.parse(os.environ[ADDRESS], ADDRESS)
        return cls(least, most, address, read_token(), read_wait())


def read_token() -> str | None:
    """Return the token, or None if it is unset.

    Raises:
        ParamsError: it is so short that it could be guessed.
    """
    token = os.environ.get(TOKEN) or None
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise ParamsError(
            f"{TOKEN} has {len(token)} characters, so it could be guessed; use at least "
            f"{MIN_TOKEN_LENGTH}, or unset it on the coordinator, which then generates one"
        )
    return token


def read_wait() -> int:
    """Return how many seconds to wait for other hosts.

    Raises:
        ParamsError: it is not an integer in the allowed range.
    """
    text = os.environ.get(WAIT) or str(DEFAULT_WAIT)
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= MAX_WAIT:
        raise ParamsError(
            f"{WAIT}: '{one_line(text, 60)}' is not allowed: it must be a number of seconds, 1 to "
            f"{MAX_WAIT}"
        )
    return int(text)


def generate_token(path: Path) -> str:
    """Return the token in the file at `path`; generate it if there is none.

    The file is kept until the run ends, so that the other hosts can reconnect to a coordinator that
    was killed and started again.
    """
    token = path.read_text(encoding="ascii") if path.exists() else ""
    if len(token) < MIN_TOKEN_LENGTH:
        token = secrets.token_hex(16)
        umask = os.umask(0o077)  # other users of this host cannot read it
        try:
            write_bytes(path, token.encode())
        finally:
            os.umask(umask)
    return token
