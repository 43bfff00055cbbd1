"""What the environment may ask for, and the words for what it may not."""

from pathlib import Path

import pytest

from image_pipeline.common.errors import ParamsError
from image_pipeline.distributed.settings import (
    ADDRESS,
    MACHINES,
    TOKEN,
    USUAL_WAIT,
    WAIT,
    Address,
    KeptToken,
    Settings,
)

HERE = Address("192.168.1.5", 29400)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.delenv(WAIT, raising=False)
    monkeypatch.setenv(MACHINES, "2:4")
    monkeypatch.setenv(ADDRESS, str(HERE))


def test_nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", None):
        monkeypatch.delenv(MACHINES, raising=False)
        if value is not None:
            monkeypatch.setenv(MACHINES, value)
        assert Settings.read("fast") is None


def test_a_part_of_a_run_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_PIPELINE_PART", "{}")
    assert Settings.read("portable") is None


def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.read("portable") == Settings(2, 4, HERE, None, USUAL_WAIT)
    monkeypatch.setenv(MACHINES, "3")
    monkeypatch.setenv(TOKEN, "t" * 16)
    monkeypatch.setenv(WAIT, "5")
    assert Settings.read("portable") == Settings(3, 3, HERE, "t" * 16, 5)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *(
            (MACHINES, wrong, f"{MACHINES}: '{wrong}' is not allowed: it must be a number of ")
            for wrong in ("1", "0:2", "4:2", "2:65", "two", "2:", "-2", "2:3:4", "1:1", "2 :3")
        ),
        (ADDRESS, "", f"{ADDRESS} is missing beside {MACHINES}"),
        *(
            (ADDRESS, wrong, f"{ADDRESS}: '{wrong}' is not an address; give the first machine's ")
            for wrong in (
                "host",
                "host:",
                ":29400",
                "host:0",
                "host:65536",
                "a b:1",
                "::1:1",
                "h:x",
            )
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
def test_what_is_refused(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ParamsError) as caught:
        Settings.read("portable")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_bits_of_a_processor_are_not_shared() -> None:
    with pytest.raises(ParamsError, match="numerics: fast has bits that depend on the processor"):
        Settings.read("fast")


def test_addresses() -> None:
    assert Address.parse("laptop.local:1", "") == Address("laptop.local", 1)
    assert Address.parse("[fe80::1]:29400", "") == Address("fe80::1", 29400)
    assert str(Address("fe80::1", 29400)) == "[fe80::1]:29400"


def test_a_made_token_is_known_again_until_the_run_is_over(tmp_path: Path) -> None:
    kept = KeptToken(tmp_path / "checkpoints")
    token = kept.get()
    assert len(token) == 32
    assert KeptToken(tmp_path / "checkpoints").get() == token
    [file] = (tmp_path / "checkpoints").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600  # others on this machine do not read it
    kept.remove()
    assert not file.exists()
    assert kept.get() != token
