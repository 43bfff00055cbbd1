"""A copy of this project in a folder of its own, to run as a user would."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
SHARED_MNIST = ROOT.parent / "shared" / "data" / "mnist"
IN_CI = os.environ.get("CI") == "true"

# Small and quick, yet every numeric operation of training takes part, and a batch has two
# micro-batches, so that there is a second process.
SMALL = {
    "download.dataset": "digits",
    "train.epochs": 3,
    "train.batch_size": 128,
    "train.loss.cross_entropy.label_smoothing": 0.1,
    "plot.dpi": 50,
    "plot.mistakes": 4,
    "plot.samples": 4,
}
LONGER = 4  # epochs of a second run that DVC's cache has, see conftest.py
PATIENCE = 300.0  # seconds until something that must happen has happened
# Who commits and merges, where the commands under test do.
IDENTITY = {
    f"GIT_{who}_{what}": "test@example.com"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
OUTPUT_FOLDERS = ("data", "models", "metrics", "plots")
# What the train stage writes.
TRAINED = (
    "models/model.safetensors",
    "metrics/train.json",
    "metrics/receipt.json",
    "plots/history.csv",
)


def require(condition: object, what: str) -> None:
    """Skip the test where `what` is absent; in CI, where nothing may be absent, fail it."""
    if condition:
        return
    if IN_CI:
        pytest.fail(f"{what} is needed in CI")
    pytest.skip(f"{what} is not here")


def require_emulator() -> None:
    """Skip the test where `qemu-x86_64` is absent or crashes on PyTorch's gathers and LSTM."""
    version = ""
    if shutil.which("qemu-x86_64"):
        version = run("qemu-x86_64", "--version").stdout.split()[2]
    require(version and int(version.split(".")[0]) >= 10, "qemu-x86_64 of version 10 (7.2 crashes)")


def run(
    *command: str | Path, check: bool = True, timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command, with more options of `subprocess.run`; with `check`, failing fails the test.

    It reads nothing from the terminal.
    """
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    done = subprocess.run(
        command, check=False, timeout=timeout, capture_output=True, text=True, **options
    )
    if check and done.returncode:
        words = " ".join(map(str, command))
        pytest.fail(f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Poll `condition`; fail the test when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: did not happen in {seconds:.0f} s"
        time.sleep(0.01)


def code_blocks(text: str, language: str = "sh") -> list[str]:
    """Return the code in a page of Markdown, or in a part of one."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def unused_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; yield the server's address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Project:
    """The project's tracked files as they are now, under `root`, in Git and DVC."""

    def __init__(self, root: Path, params: Mapping[str, Any] = SMALL) -> None:
        self.root = root
        listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
        self.set_params(params)
        _git("init", "--quiet", cwd=root)
        self.commit("the project, with the test's params")

    def copy_to(self, root: Path) -> Self:
        """Return a copy of this project with everything in it: outputs, Git's and DVC's history."""
        shutil.copytree(self.root, root, symlinks=True)
        return self.at(root)

    def copy_without_results(self, root: Path) -> Self:
        """Return a copy of this project with what is in `data/`, and no other of its outputs."""
        copy = self.copy_to(root)
        for folder in OUTPUT_FOLDERS[1:]:
            shutil.rmtree(root / folder)
        return copy

    def clone_to(self, root: Path) -> Self:
        """Return a plain `git clone` of this project: what Git tracks, none of DVC's cache."""
        _git("clone", "--quiet", "--no-hardlinks", str(self.root), str(root), cwd=self.root)
        return self.at(root)

    @classmethod
    def at(cls, root: Path) -> Self:
        """Return the project that lies in a folder."""
        project = object.__new__(cls)
        project.root = root
        return project

    def set_params(self, values: Mapping[str, Any]) -> None:
        """Set dotted keys of params.yaml, in new blocks where need be."""
        yaml = YAML()
        path = self.root / "params.yaml"
        document = yaml.load(path.read_text(encoding="utf-8"))
        for key, value in values.items():
            *blocks, last = key.split(".")
            block = document
            for name in blocks:
                block = block.setdefault(name, {})
            block[last] = value
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)

    def commit(self, subject: str) -> None:
        """Commit everything that Git does not ignore."""
        _git("add", "--all", cwd=self.root)
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        _git(*identity, "commit", "--quiet", "--allow-empty", "-m", subject, cwd=self.root)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return an environment in which the project's commands and modules are found."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_"))
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        modules = {"PYTHONPATH": str(self.root / "src"), "PATH": path}
        return {**inherited, **modules, **(extra or {})}

    def claiming(self, cores: int, folder: Path) -> dict[str, str]:
        """Return what `run` needs for Python to tell of so many cores, by a file in `folder`."""
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            f"import os\nos.sched_getaffinity = lambda pid: set(range({cores}))\n"
            f"os.cpu_count = os.process_cpu_count = lambda: {cores}\n"
        )
        return {"PYTHONPATH": os.pathsep.join([str(self.root / "src"), str(folder)])}

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's root; with `check`, a failure fails the test."""
        environment = self.environment(env)
        return run(*command, check=check, cwd=self.root, env=environment, timeout=timeout)

    def stage(
        self,
        name: str,
        *,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a stage's script by itself, without DVC; `prefix` goes before the interpreter."""
        command = (*prefix, sys.executable, f"stages/{name}.py")
        return self.run(*command, env=env, timeout=timeout, check=check)

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every output of the pipeline."""
        return {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in OUTPUT_FOLDERS
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file()
        }

    def times(self) -> dict[Path, int]:
        """Return when each output was last written, in nanoseconds."""
        return {
            path: path.lstat().st_mtime_ns
            for folder in OUTPUT_FOLDERS
            for path in (self.root / folder).rglob("*")
        }

    def git_status(self) -> str:
        """Return what Git has to say of changed and untracked files."""
        return _git("status", "--porcelain", cwd=self.root)


def child_processes(process: int | None = None) -> list[int]:
    """Return the numbers of the child processes of one, of this one if None. Linux only."""
    process = process or os.getpid()
    return [
        int(number)
        for thread in Path(f"/proc/{process}/task").iterdir()
        for number in (thread / "children").read_text().split()
    ]


def _git(*arguments: str, cwd: Path) -> str:
    return run("git", *arguments, cwd=cwd).stdout
