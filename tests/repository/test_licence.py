"""LICENSE, CITATION.cff, CHANGELOG.md and pyproject.toml say the same; no dependency forbids it."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata

from ruamel.yaml import YAML

from project import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What DVC brings, is only called by it, and is not distributed with this project: pygit2 has an
# exception for linking, the others can be had under the EPL.
COPYLEFT = {"asyncssh", "grandalf", "pygit2"}


def test_the_licence_is_the_same_everywhere() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) ")
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert PROJECT["license"] == citation["license"] == "MIT"
    assert PROJECT["version"] == citation["version"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()  # the format's required keys
    assert "[MIT](LICENSE)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert all(
        re.fullmatch(r"\[Unreleased\]|\[[\d.]+\] - \d{4}-\d\d-\d\d", each) for each in versions
    )
    changes = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert changes <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert PROJECT["version"] in text


def test_no_other_dependency_is_copyleft() -> None:
    """Of the GPL's kind, which a program that links it would have to be under, too."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = set()
    for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE):
        try:
            said = metadata(name)
        except PackageNotFoundError:
            continue  # for another operating system
        # Some give the whole text, with the licences of what they bundle: its first line is theirs.
        given = [*said.get_all("License-Expression", []), *said.get_all("License", [])]
        first = [each.partition("\n")[0] for each in given]
        others = [each for each in said.get_all("Classifier", []) if each.startswith("License")]
        text = " ".join([*first, *others])
        if re.search("GPL|General Public|EPL-", text) and not re.search("Apache|LGPL|Lesser", text):
            found.add(name)
    assert found == COPYLEFT
