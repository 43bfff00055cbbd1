"""Data is never code here, and nothing is installed that the lock does not name with its hash."""

import ast
import re
from pathlib import Path

import pytest

from project import ROOT

FOLDERS = ("src", "stages", "tests", "benchmarks")
SOURCES = sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py") if path.is_file())
UNPICKLERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
HARMLESS = {"from joblib import cpu_count", "from pickle import UnpicklingError"}
EVALUATORS = {"eval", "exec", "compile", "__import__"}
UNSAFE_LOADERS = {"unsafe_load", "full_load", "unsafe_load_all", "full_load_all", "read_pickle"}


def faults(source: str) -> list[str]:
    """Return what in a module would run, or build any object from, the data that it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if ast.unparse(node) in HARMLESS:
                continue
        found += [name for name in names if name.split(".")[0] in UNPICKLERS]
        if isinstance(node, ast.Call):
            found += _faults_of_call(node)
    return found


def _faults_of_call(call: ast.Call) -> list[str]:
    called = ast.unparse(call.func)
    last = called.rsplit(".", 1)[-1]
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    bad = (
        called in EVALUATORS
        or last in UNSAFE_LOADERS
        or (called == "yaml.load" and "Loader" in keywords)
        or (last == "YAML" and keywords.get("typ", "'rt'") not in ("'safe'", "'rt'"))
        or (
            called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False"
        )
        or (called == "torch.load" and keywords.get("weights_only") != "True")
        or keywords.get("shell", "False") != "False"
        or called in ("os.system", "os.popen")
    )
    return [ast.unparse(call)] if bad else []


def test_nothing_unpickles_or_evaluates() -> None:
    named = {path.relative_to(ROOT).as_posix(): path for path in SOURCES}
    assert {"stages/train.py", "tests/project.py"} <= named.keys()
    found = {name: faults(path.read_text(encoding="utf-8")) for name, path in named.items()}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_the_check_itself_sees() -> None:
    for source in (
        "import pickle",
        "from joblib import cpu_count, load",
        "import os, dill as d",
        "from torch.multiprocessing import x; import cloudpickle.x",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=safe)",
        "np.load(path, allow_pickle=True)",
        "yaml.unsafe_load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "YAML(typ='unsafe')",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
    ):
        assert faults(source), source
    assert not faults("from joblib import cpu_count")


# What `make setup` installs.

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
INSTALLING = re.findall(r"^\t.*\b(?:pip|uv) (?:install|sync|add|run|tool)\b.*$", MAKEFILE, re.M)
OWN = [line for line in INSTALLING if line.endswith("--editable .")]
FETCHED = [line for line in INSTALLING if line not in OWN]
LOCKS = [*ROOT.glob("requirements*.lock"), ROOT / "benchmarks" / "requirements.lock"]


def test_setup_installs_uv_with_pip_then_everything_with_uv_then_this_package() -> None:
    recipe = re.search(r"^\.venv/complete:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe
    installing = [line for line in recipe[1].splitlines() if line in INSTALLING]
    assert [line in OWN for line in installing] == [False, False, True]
    assert installing[0].endswith(" --only-binary :all: -r .venv/uv.lock")  # runs no code of it
    assert installing[1].endswith(" requirements.lock requirements-dev.lock")


def test_what_is_fetched_is_checked_against_hashes_and_nothing_else_is() -> None:
    for line in FETCHED:
        assert "--require-hashes" in line
        assert re.search(r" (-r \.venv/uv|(benchmarks/)?requirements(-dev|-app)?)\.lock$", line)
    for line in OWN:
        assert {"--no-deps", "--no-build-isolation", "--offline"} <= set(line.split())
    assert not re.search(r"\b(curl|wget)\b|https?://|--index", MAKEFILE)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_locked_package_has_a_version_and_hashes(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 30
    for entry in entries:
        first, *hashes = entry.replace("\\\n", "\n").splitlines()
        assert re.match(r"[A-Za-z0-9._-]+==[^ ;]+( ; .*)?$", first.strip()), first
        assert hashes, first
        for line in hashes:
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line.strip()), line
    assert "://" not in text  # no address, so no other source than the user's own
