"""Environment variables: their values and the messages for wrong ones."""

from pathlib import Path

import pytest

from image_pipeline.common.errors import ParamsError
from image_pipeline.distributed.settings import (
    ADDRESS,
    DEFAULT_WAIT,
    MACHINES,
    TOKEN,
    WAIT,
    WORKER,
    Address,
    CoordinatorSettings,
    generate_token,
)
from refusals import said_by

HERE = Address("192.168.1.5", 29400)
from_environment = CoordinatorSettings.from_environment


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.delenv(WAIT, raising=False)
    monkeypatch.setenv(MACHINES, "2:4")
    monkeypatch.setenv(ADDRESS, str(HERE))


@pytest.mark.parametrize(("name", "value"), [(MACHINES, ""), (MACHINES, None), (WORKER, "{}")])
def test_no_coordinator(name: str, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single host, or a worker."""
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    assert from_environment("portable") is None


def test_valid_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment("portable") == CoordinatorSettings(2, 4, HERE, None, DEFAULT_WAIT)
    monkeypatch.setenv(MACHINES, "3")
    monkeypatch.setenv(TOKEN, "t" * 16)
    monkeypatch.setenv(WAIT, "5")
    assert from_environment("portable") == CoordinatorSettings(3, 3, HERE, "t" * 16, 5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(
            (MACHINES, wrong, f"{MACHINES}: '{wrong}' is not allowed: it must be a number of ")
            for wrong in ("1", "0:2", "4:2", "2:65", "two", "2:", "-2", "2:3:4", "1:1", "2 :3")
        ),
        (ADDRESS, "", f"{ADDRESS} is missing, {MACHINES} needs it"),
        *(
            (ADDRESS, wrong, f"{ADDRESS}: '{wrong}' is not an address; give the coordinator's ")
            for wrong in ("host", "host:", ":1", "host:0", "host:65536", "a b:1", "::1:1", "h:x")
        ),
        (ADDRESS, "0.0.0.0:29400", f"{ADDRESS}: 0.0.0.0 stands for every network"),
        (ADDRESS, "[::]:29400", f"{ADDRESS}: :: stands for every network"),
        (TOKEN, "short", f"{TOKEN} has 5 characters, so it could be guessed"),
        *(
            (WAIT, wrong, f"{WAIT}: '{wrong}' is not allowed: it must be a number of seconds, 1 to")
            for wrong in ("0", "86401", "1.5", "long")
        ),
    ],
)
def test_invalid_variables(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert said_by(ParamsError, from_environment, "portable").startswith(message)


def test_fast_numerics_cannot_be_distributed() -> None:
    with pytest.raises(ParamsError, match="numerics: fast has bits that depend on the processor"):
        from_environment("fast")


def test_addresses() -> None:
    assert Address.parse("laptop.local:1", "") == Address("laptop.local", 1)
    assert Address.parse("[fe80::1]:29400", "") == Address("fe80::1", 29400)
    assert str(Address("fe80::1", 29400)) == "[fe80::1]:29400"


def test_generated_token_is_kept_until_the_run_ends(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "machines.token"
    token = generate_token(path)
    assert len(token) == 32
    assert generate_token(path) == token
    assert [*path.parent.iterdir()] == [path]
    assert path.stat().st_mode & 0o777 == 0o600  # other users cannot read it
    path.unlink()
    assert generate_token(path) != token
