"""What the environment asks for: it changes no bit of a result, so it is no parameter."""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.files import write_bytes

PREFIX = "IMAGE_PIPELINE_"
MACHINES, ADDRESS, TOKEN, WAIT = (
    f"{PREFIX}{name}" for name in ("MACHINES", "ADDRESS", "TOKEN", "WAIT")
)
PART = f"{PREFIX}PART"  # what the agent tells the process that trains beside other machines
SAVED = "saved"  # in the store, how many states the process that trains has saved in this round
MAX_MACHINES = 64
USUAL_WAIT = 300  # seconds
MAX_WAIT = 86_400
MIN_TOKEN_LENGTH = 16  # characters, when it is the user's own
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - which is what is refused


@dataclass(frozen=True)
class Address:
    """Where the first machine is to be reached."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, name: str) -> "Address":
        """Read `host:port`, or `[host]:port` for a host of IPv6.

        Raises:
            ParamsError: it is nothing of the kind; the message begins with `name`.
        """
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/@]+):([0-9]{1,5})", text)
        if not found or not 0 < int(found[2]) < 1 << 16:
            raise ParamsError(
                f"{name}: '{one_line(text, 60)}' is not an address; give the first machine's host "
                "and a free port, such as 192.168.1.5:29400"
            )
        host = found[1].strip("[]")
        if host in EVERYWHERE:
            raise ParamsError(
                f"{name}: {host} stands for every network of this machine; give the one address "
                "that the other machines reach it by"
            )
        return cls(host, int(found[2]))


@dataclass(frozen=True)
class Settings:
    """What the first machine is asked for.

    Attributes:
        least: machines, this one among them, below which no training goes on.
        most: machines that are let in.
        address: where this one listens for the others.
        token: the secret that all of them know; None to make one.
        wait: seconds to wait where there are too few machines.
    """

    least: int
    most: int
    address: Address
    token: str | None
    wait: int

    @classmethod
    def read(cls, numerics: Literal["portable", "fast"]) -> "Settings | None":
        """Read the environment; return None where it asks for no other machines.

        Args:
            numerics: as params.yaml has it.

        Raises:
            ParamsError: a variable cannot be what it is, or is missing.
        """
        environment = os.environ
        if not (asked := environment.get(MACHINES)) or PART in environment:
            return None
        found = re.fullmatch(r"([0-9]{1,4})(?::([0-9]{1,4}))?", asked)
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most <= MAX_MACHINES or most < 2:
            raise ParamsError(
                f"{MACHINES}: '{one_line(asked, 60)}' is not allowed: it must be a number of "
                f"machines, 2 to {MAX_MACHINES}, or the least and the most, such as 2:4"
            )
        if not environment.get(ADDRESS):
            raise ParamsError(
                f"{ADDRESS} is missing beside {MACHINES}; give the address and a free port that "
                "the other machines reach this one by, such as 192.168.1.5:29400"
            )
        if numerics == "fast":
            raise ParamsError(
                "train.numerics: fast has bits that depend on the processor, so machines cannot "
                f"share its work; set it to portable, or unset {MACHINES}"
            )
        address = Address.parse(environment[ADDRESS], ADDRESS)
        return cls(least, most, address, token_of(environment), wait_of(environment))


def token_of(environment: Mapping[str, str]) -> str | None:
    """Return the token that the environment has.

    Raises:
        ParamsError: it could be guessed.
    """
    token = environment.get(TOKEN) or None
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise ParamsError(
            f"{TOKEN} has {len(token)} characters, so it could be guessed; give {MIN_TOKEN_LENGTH} "
            "or more, or leave it unset on the first machine, which then makes one"
        )
    return token


def wait_of(environment: Mapping[str, str]) -> int:
    """Return how many seconds to wait for machines that are not there.

    Raises:
        ParamsError: it is no such number.
    """
    text = environment.get(WAIT) or str(USUAL_WAIT)
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= MAX_WAIT:
        raise ParamsError(
            f"{WAIT}: '{one_line(text, 60)}' is not allowed: it must be a number of seconds, 1 to "
            f"{MAX_WAIT}"
        )
    return int(text)


class KeptToken:
    """A token of the first machine's making, kept for the time that the run takes.

    So the other machines know it again when this one was killed and goes on.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "machines.token"

    def get(self) -> str:
        """Return the token, which is made where there is none."""
        try:
            token = self._path.read_text(encoding="ascii")
        except FileNotFoundError:
            token = ""
        if len(token) < MIN_TOKEN_LENGTH:
            token = secrets.token_hex(16)
            before = os.umask(0o077)  # nobody else on this machine reads it
            try:
                write_bytes(self._path, token.encode())
            finally:
                os.umask(before)
        return token

    def remove(self) -> None:
        """Forget it: the run is over."""
        self._path.unlink(missing_ok=True)
