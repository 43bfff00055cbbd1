"""Every key of params.yaml, and the ways to get it wrong."""

import ast
import re
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from image_pipeline.common.errors import ParamsError
from image_pipeline.common.params import RENAMED, read_params, schema
from image_pipeline.training.losses import LOSSES
from image_pipeline.training.schedules import SCHEDULES
from project import ROOT
from refusals import quick, said_by, valid_or_refused

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
LINES = TEXT.splitlines()


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key that holds a value, with its pydantic field."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


FIELDS = dict(keys(schema()))


def document(changes: dict[str, Any] | None = None, remove: str = "") -> dict[str, Any]:
    """Return the committed parameters with changes of dotted keys."""
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(TEXT)
    for key, value in (changes or {}).items():
        block, name = find(values, key)
        block[name] = value
    if remove:
        block, name = find(values, remove)
        del block[name]
    return values


def find(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    *blocks, name = key.split(".")
    for part in blocks:
        values = values[part]
    return values, name


def line_numbers() -> Iterator[tuple[str, int]]:
    """Yield every dotted key of the file with the index of its line."""
    path: list[tuple[int, str]] = []
    for number, line in enumerate(LINES):
        if found := re.match(r"( *)([a-z_0-9]+):", line):
            path = [item for item in path if item[0] < len(found[1])] + [(len(found[1]), found[2])]
            yield ".".join(name for _, name in path), number


NUMBERS = dict(line_numbers())


def replaced(key: str, yaml: str) -> str:
    """Return params.yaml's text with the value of `key` replaced by YAML text."""
    lines = LINES.copy()
    lines[NUMBERS[key]] = f"{lines[NUMBERS[key]].partition(':')[0]}: {yaml}"
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("params") / "params.yaml"


def write(path: Path, values: object) -> bytes:
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(values, stream)
    return path.read_bytes()


def refusal(path: Path, content: str | bytes) -> str:
    """Return what is said of a file with this content: one line that names the file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = said_by(ParamsError, read_params, path)
    assert message.startswith(f"{path}")
    assert len(message) < 1500
    return message.removeprefix(str(path)).removeprefix(": ")


def test_the_committed_file_is_allowed_and_complete() -> None:
    assert read_params(ROOT / "params.yaml").model_dump() == document()


@pytest.mark.parametrize(
    ("key", "yaml", "value"),
    [
        ("train.learning_rate", "1e-3", 0.001),  # a number, as for DVC
        ("train.learning_rate", "10", 10.0),
        ("download.folder.url", "http://a.org/b?c=1", "http://a.org/b?c=1"),
        ("download.folder.sha256", "a" * 64, "a" * 64),
    ],
)
def test_what_is_allowed(key: str, yaml: str, value: object, file: Path) -> None:
    file.write_text(replaced(key, yaml))
    found: Any = read_params(file)
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


INTEGER = "input should be a valid integer"
STRING = "input should be a valid string"
PATTERN = "string should match pattern '{}'"
# For each key: values in YAML, how they are shown, and what is said of them.
REFUSED: dict[str, list[tuple[str, str, str]]] = {
    "train.epochs": [
        ("many", "'many'", INTEGER),
        ("1e2", "100.0", INTEGER),
        ("true", "true", INTEGER),
        ("&loop [*loop]", "[[[...]]]", INTEGER),
        ('"line\\nbreak\\e[2J"', r"'line\nbreak\x1b[2J'", INTEGER),
        ("0", "0", "input should be greater than or equal to 1"),
        (
            f"0x1{'0' * 5000}",
            "a number of thousands of digits",
            "input should be less than or equal to 10000",
        ),
    ],
    "train.augmentation.elastic": [(".nan", "nan", "input should be a finite number")],
    "train.numerics": [("exact", "'exact'", "input should be 'portable' or 'fast'")],
    "train.model.name": [
        (
            "__init__",
            "'__init__'",
            "it must be cnn or efficientnet_lite0 or mlp or resnet or torchvision",
        )
    ],
    "weights.license": [("MIT!", "'MIT!'", PATTERN.format("^[a-z0-9][a-z0-9.-]{0,63}$"))],
    "weights.mean": [("[]", "[]", "list should have at least 1 item after validation, not 0")],
    "train.augmentation.custom": [("nothing", "'nothing'", "it must be none")],
    "train.optimizer.name": [
        ("torch.optim.SGD", "'torch.optim.SGD'", PATTERN.format("^[A-Za-z][A-Za-z0-9]*$")),
        ("x" * 65, f"'{'x' * 12}...{'x' * 13}'", "string should have at most 64 characters"),
    ],
    "tensorize.folder.channels": [
        ("true", "true", INTEGER),  # it equals 1
        ("1.0", "1.0", INTEGER),
    ],
    "download.folder.path": [
        ("2024", "2024", f"{STRING}; put it in quotes"),
        ("1e3", "1000.0", f"{STRING}; put it in quotes"),
        ("2024-01-01", "datetime.date(2024, 1, 1)", f"{STRING}; put it in quotes"),
        ("null", "null", STRING),
    ],
    "download.folder.url": [
        (url, f"'{url}'", PATTERN.format("^(https?://[!-~]+)?$"))
        for url in ("ftp://a.org/pets", "https://a b.org", "http://")
    ]
    + [
        (url, f"'{url}'", "it must be an http(s) address with a host, or empty")
        for url in ("http://[", "http://?x")
    ],
    "download.folder.sha256": [
        (digits, f"'{digits[:12]}...{digits[-13:]}'", PATTERN.format("^([0-9a-f]{64})?$"))
        for digits in ("a" * 63, "a" * 65, "A" * 64)
    ],
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_refused(key: str, file: Path) -> None:
    for yaml, shown, said in REFUSED[key]:
        message = refusal(file, replaced(key, yaml))
        assert message == f"{key}: {shown} is not allowed: {said}"


@pytest.mark.parametrize("key", ["train.epochs", "train.augmentation", "plot"])
def test_a_missing_key_is_named(key: str, file: Path) -> None:
    message = refusal(file, write(file, document(remove=key)))
    assert message == f"{key}: missing; add it (the committed params.yaml has it)"


UNKNOWN = "unknown key; remove it or correct its spelling"
NO_BLOCK = "is not allowed: input should be a valid dictionary or instance of MachineParams"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("extra", 3, UNKNOWN),
        ("train.epoch", 3, UNKNOWN),
        ("train.augmentation.blur", 3, UNKNOWN),
        ("machine", None, f"null {NO_BLOCK}"),
        *((key, 0, f"its name is {new} now") for key, new in RENAMED.items()),
    ],
)
def test_unknown_keys_and_blocks_that_are_none(
    key: str, value: object, said: str, file: Path
) -> None:
    assert refusal(file, write(file, document({key: value}))) == f"{key}: {said}"


def test_new_names_are_those_of_the_file() -> None:
    assert set(RENAMED.values()) <= NUMBERS.keys()


def test_keys_that_are_no_names(file: Path) -> None:
    for key in ("3", "~", "? [a, b]\n", '"line\\nbreak\\e[2J"', "2001-02-03"):
        assert "unknown key" in refusal(file, f"{TEXT}{key}: 3\n"), key


def test_five_problems_are_shown_at_most(file: Path) -> None:
    def said(number: int) -> str:
        return refusal(file, TEXT + "".join(f"k{n}: 3\n" for n in range(number)))

    unknown = [f"k{n}: {UNKNOWN}" for n in range(5)]
    assert said(5) == "; ".join(unknown)
    assert said(6) == "; ".join(unknown) + "; and 1 more"


OPTIONS = "a block of at most 64 options, each a word, a number, true, false, or a list of these"


@pytest.mark.parametrize("block", ["train.model.mlp", "train.optimizer.SGD"])
def test_blocks_of_options(block: str, file: Path) -> None:
    """They are free, chosen or not, within what a constructor can be given."""
    good = {"sizes": [1, 2.5, [3, 4]], "word": "gelu", "bias": True, "many": [1] * 64}
    good |= {f"a{number}": 1 for number in range(60)}
    write(file, document({block: good}))
    found = read_params(file).train
    assert found.model.options == (good if "mlp" in block else {"hidden_sizes": [120, 84]})
    assert found.optimizer.options == {"betas": [0.9, 0.999]}
    values = (None, {"b": 1}, float("nan"), [[[1]]], [1] * 65)
    too_many = {f"a{number}": 1 for number in range(65)}
    for bad in (3, None, ["a"], {"a b": 1}, {3: 1}, too_many, *({"a": value} for value in values)):
        message = refusal(file, write(file, document({block: bad})))
        assert message.startswith(f"{block}: ")
        assert message.endswith(f" is not allowed: it must be {OPTIONS}")
    write(file, document(remove="train.model.mlp"))
    assert read_params(file).train.model.options == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"weights.mean": [0.5], "weights.std": [0.5, 0.5]},
            "`mean` and `std` must have a number per channel each",
        ),
        ({"weights.std": [0.2, 0.0, 0.2]}, "`std` must be above 0"),
        ({"tensorize.folder.crop_fraction": 0.5}, "a crop_fraction below 1 needs `fit: crop`"),
        (
            {"train.model.torchvision": {"pretrained": "yes"}, "train.model.name": "torchvision"},
            "`pretrained` of torchvision must be true or false",
        ),
    ],
)
def test_settings_that_rule_each_other_out(
    changes: dict[str, object], said: str, file: Path
) -> None:
    message = refusal(file, write(file, document(changes)))
    assert message.endswith(f"is not allowed: {said}")


def test_syntax_errors_name_the_line(file: Path) -> None:
    command = replaced("plot.dpi", "!!python/object/apply:os.system [touch /tmp/x]")
    end = len(LINES) + 1
    for content, line, problem in (
        (TEXT + "  cores: 3\n", end, 'duplicate key "cores"'),
        (f"{TEXT}---\n{TEXT}", end, "another document"),
        (TEXT + 'x: "1\n', end + 1, "end of stream"),
        (TEXT + "x: \0\n", end, "special characters are not allowed"),
        (command, NUMBERS["plot.dpi"] + 1, "could not determine a constructor for the tag"),
    ):
        message = refusal(file, content)
        assert message.startswith(f", line {line}: not valid YAML here: ")
        assert problem in message


def test_values_that_yaml_itself_trips_over(file: Path) -> None:
    for value in ("!!int ''", "!!bool maybe", "2001-99-99", '"\\U00110000"', "1" * 5000):
        assert refusal(file, f"{TEXT}x: {value}\n").startswith("not valid YAML: "), value


def test_a_file_without_blocks(file: Path) -> None:
    for content in ("", "# nothing\n", "3", "- a\n- b"):
        message = refusal(file, content)
        assert message == "a mapping with one block per stage is expected at the top"


def test_encodings(file: Path) -> None:
    assert "byte 0 is not UTF-8; save it as UTF-8" in refusal(file, TEXT.encode("utf-16"))
    assert "is not UTF-8" in refusal(file, TEXT.encode() + "# é\n".encode("latin-1"))
    file.write_bytes(TEXT.replace("\n", "\r\n").encode("utf-8-sig"))
    assert read_params(file) == read_params(ROOT / "params.yaml")


def test_large_and_deep_files_end_soon(file: Path) -> None:
    start = time.monotonic()
    file.write_text(TEXT + "#" * (65536 - len(TEXT.encode())))
    read_params(file)
    assert "larger than 65536 bytes" in refusal(file, file.read_text() + "#")
    names = "abcdefghijklmnop"
    rows = [f"{name}: &{name} [{', '.join(['*' + last] * 9)}]" for last, name in pairwise(names)]
    refusal(file, "a: &a [lol]\n" + "\n".join(rows))  # 9 to the power of 15, written out
    flow = f"[&a [lol], {', '.join(row.partition(': ')[2] for row in rows)}]"
    for key in ("train.epochs", "train.augmentation.elastic", "train.augmentation"):
        refusal(file, replaced(key, flow))
    assert "RecursionError" in refusal(file, "[" * 5000)
    assert "RecursionError" in refusal(file, "{a: " * 5000)
    assert time.monotonic() - start < 60


def test_anchors_and_merges_that_do_no_harm(file: Path) -> None:
    text = TEXT.replace("  seed: 0 ", "  seed: &seed 0 ", 1).replace("  seed: 0 ", "  seed: *seed ")
    assert text.count("*seed") == 2
    file.write_text(text.replace("  dpi: 100 ", "  <<: {dpi: 100}"))
    assert read_params(file) == read_params(ROOT / "params.yaml")


def test_what_is_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = Path("params.yaml")
    with pytest.raises(ParamsError, match=r"^params.yaml: not found in .*; run from the project's"):
        read_params(missing)
    missing.mkdir()
    with pytest.raises(ParamsError, match=r"^params.yaml: cannot be read: Is a directory$"):
        read_params(missing)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@quick
@given(key=st.sampled_from(sorted(FIELDS)), value=anything)
def test_any_value_is_allowed_or_refused_in_one_line(key: str, value: object, file: Path) -> None:
    try:
        write(file, document({key: value}))
    except UnicodeEncodeError:  # a lone surrogate cannot be in a file
        return
    valid_or_refused(file, partial(read_params, file), error=ParamsError, after="")


@quick
@given(
    start=st.integers(0, len(TEXT)),
    length=st.integers(0, 200),
    put=st.text(alphabet="[]{}:,-&*!|>'\"%@`#?<~ \t\nab01.", max_size=12) | st.text(max_size=4),
)
def test_any_damage_is_harmless_or_refused_in_one_line(
    start: int, length: int, put: str, file: Path
) -> None:
    content = TEXT[:start] + put + TEXT[start + length :]
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    valid_or_refused(file, partial(read_params, file), error=ParamsError, after="")


# What params.yaml says of itself.


def comment(key: str) -> str:
    """Return a key's comment in params.yaml, with the lines that go on below it."""
    line, *below = LINES[NUMBERS[key] :]
    more = takewhile(re.compile(" +#").match, below)
    return " ".join(part.partition("#")[2].strip() for part in (line, *more))


def bounds(field: FieldInfo) -> dict[str, float]:
    """Return a field's ge, gt, le and lt, and the least and greatest length of a text."""
    names = ("ge", "gt", "le", "lt", "min_length", "max_length")
    found = ((name, getattr(item, name, None)) for item in field.metadata for name in names)
    return {name: bound for name, bound in found if bound is not None}


def told(text: str) -> dict[str, float]:
    """Return the bounds that a comment tells at its end."""
    number = r"([0-9]+(?:\.[0-9]+)?)"
    patterns = {
        rf"{number} (?:\(none\) )?to {number}": ("ge", "le"),
        rf"{number} to below {number}": ("ge", "lt"),
        rf"above {number}, to {number}": ("gt", "le"),
        rf"between {number} and {number}": ("gt", "lt"),
        rf"{number} to {number} characters": ("min_length", "max_length"),
        rf"up to {number} characters": ("max_length",),
    }
    [(names, found)] = [
        (names, match)
        for pattern, names in patterns.items()
        if (match := re.fullmatch(pattern, text.rpartition("; ")[2]))
    ]
    return dict(zip(names, map(float, found.groups()), strict=True))


def options() -> Iterator[tuple[str, FieldInfo]]:
    """Yield the keys of the options of losses and schedules that the file has."""
    for block, functions in (("loss", LOSSES), ("lr_schedule", SCHEDULES)):
        values = document()["train"][block]
        for name in values.keys() - {"name"}:
            hints = get_type_hints(functions[name], include_extras=True)
            for option in values[name]:
                key = f"train.{block}.{name}.{option}"
                yield key, FieldInfo.from_annotation(hints[option])


def test_each_comment_tells_the_range_that_is_checked() -> None:
    numbers = words = 0
    for key, field in (FIELDS | dict(options())).items():
        text = comment(key)
        if get_origin(field.annotation) is Literal:
            words += 1
            choices = [str(choice) for choice in get_args(field.annotation)]
            assert [part.split()[0] for part in text.split(" | ")] == choices
        elif field.annotation in (int, float) or "characters" in text:
            numbers += 1
            assert told(text) == bounds(field), key
        else:
            assert field.annotation in (str, bool, list[float]), key
    assert numbers >= 30
    assert words >= 5


def test_every_parameter_is_used() -> None:
    """Each field is read as an attribute somewhere beyond its own declaration."""
    read = {
        node.attr
        for folder in ("src", "stages")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert {key.rsplit(".", 1)[-1] for key in FIELDS} - read == set()
