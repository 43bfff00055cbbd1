"""docs/processors.md is made of what the tests wrote down, and that is of the committed run."""

import proofs

AGAIN = "run `make test-processors` again"
SEEN = proofs.read()


def test_the_page_is_what_was_written_down_and_that_is_the_same() -> None:
    page = proofs.PAGE.read_text(encoding="utf-8")
    assert page == proofs.page(SEEN), AGAIN
    assert "different" not in page


def test_what_was_written_down_is_of_the_committed_run() -> None:
    found, now = SEEN["expected"]["mnist"], proofs.committed_mnist()
    for name in ("first epoch", "ended natively", "last epoch"):
        assert found[name] == now[name], f"MNIST, {name}: {AGAIN}"


def test_a_row_says_what_the_hashes_say() -> None:
    """Not that tests passed; and nothing of what nobody ran."""
    runs = {name: [4, "a"] for name in ("all stages", "ended natively", "two processes")}
    networks = {"hybrid": ["b", "c"], "cnn": ["d", "e"]}
    expected: dict[str, proofs.Part] = {
        "digits": runs,
        "networks": networks,
        "samples": {"operations": 71},
    }
    found: dict[str, proofs.Part] = {
        "digits": runs | {"two processes": [4, "another"]},
        "networks": networks | {"cnn": ["d", "another"]},
        "samples": {"operations": 70},
    }
    said = proofs.cells(expected, found)
    assert said["digits, all stages"] == "same"
    assert said["digits, two processes"] == "**different**"
    assert said["networks"] == "1 of 2"
    assert said["PyTorch's samples"] == "70 of 71"
    assert said["MNIST, whole"] == said["operations in float32"] == proofs.NOT_RUN
    seen = {"expected": expected, "found": {"Haswell": found}, "emulator": "QEMU", "native": ""}
    page = proofs.page(seen)
    assert "two processes" in page
    assert "MNIST, whole" not in page
