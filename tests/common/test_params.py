"""Every key of params.yaml, and every way to get it wrong."""

import ast
import math
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from image_pipeline.common.errors import ParamsError
from image_pipeline.common.params import Params, read_params
from project import ROOT, Project

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
quick = settings(derandomize=True, deadline=None, max_examples=150, database=None)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key that holds a value, with its pydantic field."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


# Keys whose values are no number within bounds, no word of a few, no text: tested by themselves.
APART = {
    "train.model.name",
    "train.optimizer.name",
    "train.augmentation.custom",
}
FIELDS = {key: field for key, field in keys(Params) if key not in APART}


def bounds(field: FieldInfo) -> dict[str, float]:
    """Return a field's ge, gt, le and lt."""
    return {
        name: float(getattr(item, name))
        for item in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if getattr(item, name, None) is not None
    }


INTEGERS = {key: bounds(field) for key, field in FIELDS.items() if field.annotation is int}
FLOATS = {key: bounds(field) for key, field in FIELDS.items() if field.annotation is float}
TEXTS = {
    "download.folder.path": "text of 1 to 4096 characters",
    "download.folder.url": "an http(s) address, or empty",
    "download.folder.sha256": "64 hexadecimal digits in lower case, or empty",
}
CHOICES = {
    key: get_args(field.annotation)
    for key, field in FIELDS.items()
    if key not in INTEGERS and key not in FLOATS and key not in TEXTS
}


FILES = {
    key: sorted(path.stem for path in (ROOT / "src" / "image_pipeline" / folder).glob("[a-z]*.py"))
    for key, folder in (
        ("train.model.name", "models"),
        ("train.augmentation.custom", "augmentations"),
    )
}


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


def replaced(key: str, yaml: str) -> str:
    """Return params.yaml's text with the value of `key` replaced by YAML text."""
    last = key.rsplit(".", 1)[-1]
    lines = TEXT.splitlines()
    path: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        if found := re.match(r"( *)([a-z_0-9]+):", line):
            path = [item for item in path if item[0] < len(found[1])] + [(len(found[1]), found[2])]
            if ".".join(name for _, name in path) == key:
                lines[number] = f"{found[1]}{last}: {yaml}"
                return "\n".join(lines) + "\n"
    raise AssertionError(key)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("params") / "params.yaml"


def refusal(path: Path, content: str | bytes) -> str:
    """Return what is said of a file with this content: one line that names the file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ParamsError) as caught:
        read_params(path)
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert message.isprintable()  # so it is one line, too
    assert len(message) < 1500
    assert caught.value.exit_code == 2
    return message


def read_or_refuse(path: Path) -> None:
    """Read the file; fail where it is neither allowed nor refused in one line that names it."""
    try:
        read_params(path)
    except ParamsError as error:
        message = str(error)
    else:
        return
    assert message.startswith(str(path))
    assert message.isprintable()


def test_the_committed_file_is_allowed_and_complete() -> None:
    found = read_params(ROOT / "params.yaml")
    assert found.model_dump() == document()
    assert all({"ge", "gt"} & set(limits) for limits in (INTEGERS | FLOATS).values())
    assert all({"le", "lt"} & set(limits) for limits in (INTEGERS | FLOATS).values())


def edge_values() -> Iterator[tuple[str, str, bool]]:
    """Yield keys with YAML values at, and just beyond, the edges of what is allowed."""
    for key, limits in INTEGERS.items():
        low, high = int(limits["ge"]), int(limits["le"])
        yield from ((key, str(value), True) for value in (low, high))
        yield from ((key, str(value), False) for value in (low - 1, high + 1))
    for key, limits in FLOATS.items():
        for name, inward in (("ge", 1), ("le", -1)):
            if name in limits:
                yield key, repr(limits[name]), True
                whole = int(limits[name])  # an integer is a number
                yield key, str(whole), whole >= limits.get("ge", 0.01)
                yield key, repr(math.nextafter(limits[name], -inward * math.inf)), False
        for name, inward in (("gt", 1), ("lt", -1)):
            if name in limits:
                yield key, repr(limits[name]), False
                yield key, repr(math.nextafter(limits[name], inward * math.inf)), True
    for key, choices in CHOICES.items():
        for choice in choices:
            yield key, str(choice), True
            yield key, f"{choice}00", False
    yield "download.folder.path", "x" * 4096, True
    yield "download.folder.path", '""', False
    yield "download.folder.path", "x" * 4097, False
    yield "download.folder.url", "https://example.org/pets.zip?download=1", True
    for url in ("pets.zip", "ftp://example.org/pets.zip", "https://exa mple.org", "http://"):
        yield "download.folder.url", url, False
    for digits, allowed in ((64, True), (63, False), (65, False)):
        yield "download.folder.sha256", "a" * digits, allowed
    yield "download.folder.sha256", "A" * 64, False
    for key, names in FILES.items():
        yield from ((key, name, True) for name in names)
        yield key, "nothing", False
        yield key, "__init__", False
    for name, allowed in (("AdamW", True), ("torch.optim.SGD", False), ("''", False)):
        yield "train.optimizer.name", name, allowed


@pytest.mark.parametrize(("key", "yaml", "allowed"), list(edge_values()))
def test_the_edges_of_what_is_allowed(key: str, yaml: str, allowed: bool, file: Path) -> None:
    if not allowed:
        message = refusal(file, replaced(key, yaml))
        assert f"{file}: {key}" in message
        assert " is not allowed: it must be " in message
        return
    file.write_text(replaced(key, yaml))
    block: Any = read_params(file)
    for name in key.split("."):
        block = getattr(block, name)
    assert block == YAML(typ="safe", pure=True).load(yaml)


WRONG = {
    "null": "null",
    "~": "null",
    "true": "true",
    "'5'": "'5'",
    "five": "'five'",
    ".nan": "nan",
    ".inf": "inf",
    "-.inf": "-inf",
    "-1": "-1",
    "-1" + "0" * 400: "-100",
    "1" + "0" * 400: "100",
    "0x1" + "0" * 5000: "a number of thousands of digits",
    "2001-02-03": "datetime.date(2001, 2, 3)",
    "[[1]]": "[[1]]",
    "{a: 1}": "{'a': 1}",
    "!!binary aGVsbG8=": "b'hello'",
    "!!set {b, a}": "{'a', 'b'}",
    "&loop [*loop]": "[[[...]]]",
    "'" + "x" * 50_000 + "'": "'xxx",
    '"line\\nbreak\\e[2J"': r"'line\nbreak\x1b[2J'",
}


# One of each kind.
KINDS = (
    "train.epochs",
    "train.label_smoothing",
    "train.numerics",
    "download.folder.path",
    "download.folder.sha256",
)


@pytest.mark.parametrize("key", KINDS)
@pytest.mark.parametrize("yaml", WRONG, ids=lambda text: text[:12])
def test_wrong_values_name_key_value_and_what_is_allowed(yaml: str, key: str, file: Path) -> None:
    if key == "download.folder.path" and yaml in ("'5'", "five", '"line\\nbreak\\e[2J"'):
        return  # a folder may be called so
    message = refusal(file, replaced(key, yaml))
    assert message.startswith(f"{file}: {key}")
    if "loop" not in yaml:
        assert f": {WRONG[yaml]}" in message
    allowed = message.partition(" is not allowed: it must be ")[2]
    if key in INTEGERS:
        limits = INTEGERS[key]
        assert allowed == f"an integer from {limits['ge']:.0f} to {limits['le']:.0f}"
    elif key in FLOATS:
        assert allowed.startswith("a number ")
        assert {float(number) for number in re.findall(r"[0-9.]+", allowed)} == set(
            FLOATS[key].values()
        )
    elif key in CHOICES:
        assert allowed == " or ".join(map(str, CHOICES[key]))
    else:
        assert allowed == TEXTS[key]


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize("yaml", ["2.0", "1e2", "false"])
def test_integers_are_integers(key: str, yaml: str, file: Path) -> None:
    assert f"{file}: {key}: {yaml.replace('1e2', '100.0')} is not" in refusal(
        file, replaced(key, yaml)
    )


@pytest.mark.parametrize("key", [*FIELDS, "train.augmentation", *Params.model_fields])
def test_a_missing_key_is_named(key: str, file: Path) -> None:
    with file.open("w") as stream:
        YAML().dump(document(remove=key), stream)
    message = refusal(file, file.read_bytes())
    assert message.startswith(f"{file}: {key}: missing; add it (the committed params.yaml has it)")


@pytest.mark.parametrize("block", [*Params.model_fields, "train.augmentation"])
@pytest.mark.parametrize("value", [None, [], "mnist", 3, [{"seed": 1}]])
def test_a_block_that_is_none(block: str, value: object, file: Path) -> None:
    with file.open("w") as stream:
        YAML().dump(document({block: value}), stream)
    message = refusal(file, file.read_bytes())
    assert message.startswith(f"{file}: {block}: ")
    assert " is not allowed: it must be a block with the keys " in message


@pytest.mark.parametrize(
    "key", ["extra", "download.extra", "train.epoch", "train.augmentation.blur", "plot.DPI"]
)
def test_an_unknown_key_is_named(key: str, file: Path) -> None:
    with file.open("w") as stream:
        YAML().dump(document({key: 3}), stream)
    message = refusal(file, file.read_bytes())
    assert message == f"{file}: {key}: unknown key; remove it or correct its spelling"


OPTIONS = "a block of at most 64 options, each a word, a number, true, false, or a list of these"


@pytest.mark.parametrize("block", ["train.model.mlp", "train.optimizer.SGD"])
def test_blocks_of_options(block: str, file: Path) -> None:
    """They are free, chosen or not, within what a constructor can be given."""

    def write(options: object) -> bytes:
        with file.open("w") as stream:
            YAML().dump(document({block: options}), stream)
        return file.read_bytes()

    good = {"sizes": [1, 2.5, [3, 4]], "word": "gelu", "bias": True}
    write(good)
    found = read_params(file).train
    assert found.model.options == (good if "mlp" in block else {"hidden_sizes": [120, 84]})
    assert found.optimizer.options == {"betas": [0.9, 0.999]}
    for bad in (
        3,
        None,
        ["a"],
        {"a": None},
        {"a": {"b": 1}},
        {"a b": 1},
        {3: 1},
        {"a": float("nan")},
        {"a": [[[1]]]},
        {"a": [1] * 65},
        {f"a{number}": 1 for number in range(65)},
    ):
        message = refusal(file, write(bad))
        assert message.startswith(f"{file}: {block}: ")
        assert message.endswith(f" is not allowed: it must be {OPTIONS}")


def test_without_a_block_there_are_no_options(file: Path) -> None:
    with file.open("w") as stream:
        YAML().dump(document(remove="train.model.mlp"), stream)
    assert read_params(file).train.model.options == {}


def test_keys_that_are_no_names(file: Path) -> None:
    for key in ("3", "~", "? [a, b]\n", '"line\\nbreak\\e[2J"', "2001-02-03", "1.5", "true"):
        assert "unknown key" in refusal(file, f"{TEXT}{key}: 3\n"), key
    assert "and 95 more" in refusal(file, TEXT + "".join(f"k{n}: 3\n" for n in range(100)))


LINES = TEXT.count("\n")
SYNTAX = {
    "a duplicate block": (f"{TEXT}plot: {{}}\n", LINES + 1, 'duplicate key "plot"'),
    "a duplicate key": (TEXT + "  dpi: 3\n", LINES + 1, 'duplicate key "dpi"'),
    "a tab": (TEXT + "\tx: 3\n", LINES + 1, "'\\t'"),
    "a command to run": (
        replaced("plot.dpi", "!!python/object/apply:os.system [touch /tmp/x]"),
        TEXT[: TEXT.index("  dpi:")].count("\n") + 1,
        "could not determine a constructor for the tag",
    ),
    "a tag of one's own": (TEXT + "x: !mine 3\n", LINES + 1, "constructor for the tag '!mine'"),
    "two documents": (f"{TEXT}---\n{TEXT}", LINES + 1, "another document"),
    "an open bracket": (TEXT + "x: [1,\n", LINES + 2, "stream end"),
    "an open quote": (TEXT + 'x: "1\n', LINES + 2, "end of stream"),
    "an unknown alias": (TEXT + "x: *nothing\n", LINES + 1, "undefined alias 'nothing'"),
    "a merge with a number": (TEXT + "x: {<<: 3}\n", LINES + 1, "merging"),
    "a zero byte": (TEXT + "x: \0\n", LINES + 1, "special characters are not allowed"),
    "a newer YAML": (f"%YAML 9.9\n---\n{TEXT}", 1, "incompatible YAML document"),
    "a wrong base64": (TEXT + 'x: !!binary "a"\n', LINES + 1, "base64"),
}


@pytest.mark.parametrize("name", SYNTAX)
def test_syntax_errors_name_the_line(name: str, file: Path) -> None:
    content, line, problem = SYNTAX[name]
    message = refusal(file, content)
    assert message.startswith(f"{file}, line {line}: not valid YAML here: ")
    assert problem in message


@pytest.mark.parametrize(
    "value", ["!!int ''", "!!bool maybe", "!!float x", "2001-99-99", '"\\U00110000"', "1" * 5000]
)
def test_values_that_yaml_itself_trips_over(value: str, file: Path) -> None:
    assert refusal(file, f"{TEXT}x: {value}\n").startswith(f"{file}: not valid YAML: ")


@pytest.mark.parametrize("content", ["", "# nothing\n", "null", "3", "text", "- a\n- b", "[]"])
def test_a_file_without_blocks(content: str, file: Path) -> None:
    message = refusal(file, content)
    assert message == f"{file}: a mapping with one block per stage is expected at the top"


def test_encodings(file: Path) -> None:
    assert "byte 0 is not UTF-8; save it as UTF-8" in refusal(file, TEXT.encode("utf-16"))
    assert "is not UTF-8" in refusal(file, TEXT.encode() + "# é\n".encode("latin-1"))
    file.write_bytes(TEXT.replace("\n", "\r\n").encode("utf-8-sig"))
    assert read_params(file) == read_params(ROOT / "params.yaml")


def test_large_and_deep_files_end_soon(file: Path) -> None:
    start = time.monotonic()
    assert "larger than 65536 bytes" in refusal(file, TEXT + "#" * 2_000_000)
    names = "abcdefghijklmnop"
    rows = [f"{name}: &{name} [{', '.join(['*' + last] * 9)}]" for last, name in pairwise(names)]
    refusal(file, "a: &a [lol]\n" + "\n".join(rows))  # 9 to the power of 15, written out
    flow = f"[&a [lol], {', '.join(row.partition(': ')[2] for row in rows)}]"
    for key in ("train.epochs", "train.max_momentum", "train.augmentation"):
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
    missing.symlink_to("nowhere")
    with pytest.raises(ParamsError, match=r"^params.yaml: not found"):
        read_params(missing)
    missing.unlink()
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
    with file.open("w", encoding="utf-8") as stream:
        yaml = YAML(typ="safe", pure=True)
        try:
            yaml.dump(document({key: value}), stream)
        except UnicodeEncodeError:  # a lone surrogate cannot be in a file
            return
    read_or_refuse(file)


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
    read_or_refuse(file)


@quick
@given(content=st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_line(content: bytes, file: Path) -> None:
    refusal(file, content)


def test_a_stage_ends_with_status_2(project: Project) -> None:
    (project.root / "params.yaml").write_text(replaced("train.epochs", "many"))
    for name in ("download", "plot"):  # the whole file is checked, whichever stage reads it
        done = project.stage(name, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == (
            f"{name}: error: params.yaml: train.epochs: 'many' is not allowed: "
            "it must be an integer from 1 to 10000\n"
        )


# What params.yaml says of itself.


def comments() -> dict[str, str]:
    """Return each key's comment in params.yaml, with the lines that go on below it."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in TEXT.splitlines():
        if match := re.match(r"( *)([a-z_0-9]+):[^#]*(#.*)?$", line):
            indent = len(match[1])
            path = [item for item in path if item[0] < indent] + [(indent, match[2])]
            found[".".join(name for _, name in path)] = (match[3] or "").lstrip("# ")
        elif path and (match := re.match(r" +# *(.*)", line)):
            found[".".join(name for _, name in path)] += f" {match[1]}"
    return found


@pytest.mark.parametrize("key", FIELDS)
def test_each_comment_tells_the_range_that_is_checked(key: str) -> None:
    comment = comments()[key]
    told = comment.rpartition("; ")[2]
    if key in CHOICES:
        named = [part.split()[0] for part in comment.split(" | ")]
        assert named == list(map(str, CHOICES[key]))
        return
    if key in TEXTS:
        assert told in (
            "1 to 4096 characters",
            "up to 4096 characters",
            "64 hexadecimal digits",
        )
        return
    limits = (INTEGERS | FLOATS)[key]
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    assert [float(number) for number in re.findall(r"\b[0-9]+(?:\.[0-9]+)?\b", told)] == [low, high]
    if "gt" in limits:
        assert re.match("(above|between) ", told)
    if "lt" in limits:
        assert re.search("(below|between) ", told)
    if "ge" in limits and "le" in limits:
        assert not re.search("above|below|between", told)


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
