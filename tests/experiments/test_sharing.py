"""docs/sharing.md with a real OpenSSH server: its commands run as copied."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from background import BackgroundCommand
from project import (
    IDENTITY,
    LONGER,
    ROOT,
    Project,
    code_blocks,
    require,
    run,
    unused_port,
    wait_until,
)

PAGE = ROOT / "docs" / "sharing.md"
BLOCKS = code_blocks(PAGE.read_text(encoding="utf-8"))
CONFIGURE, ADD, PUSH, PULL, PUSH_EXPERIMENT, PULL_EXPERIMENT = BLOCKS[:6]
MERGE, MERGED, REGISTER, GET, VERIFY = BLOCKS[6:]
HOST, FOLDER = "server.example.org", "/srv/dvc/pipeline"
REPOSITORY = f"git@{HOST}:pipeline.git"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")

pytestmark = pytest.mark.slow


class Server:
    """A local OpenSSH server, and the home of a user with its host key in known_hosts."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.storage = root, root / "home", root / "storage"
        ssh = self.home / ".ssh"
        ssh.mkdir(parents=True)
        for key in (root / "host", root / "another_host", ssh / "id_ed25519"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        self.port = unused_port()
        (root / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {root}/host\n"
            f"AuthorizedKeysFile {ssh}/id_ed25519.pub\nPidFile {root}/pid\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
        )
        # Resolves the server's name; OpenSSH itself would read the user's real home.
        (ssh / "config").write_text(
            f"Host {HOST}\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"  IdentityFile {ssh}/id_ed25519\n  UserKnownHostsFile {ssh}/known_hosts\n"
            f"Host dvc.{HOST}\n  Port {self.port}\n"
        )
        commands = root / "bin"
        commands.mkdir()
        (commands / "ssh").write_text(
            f'#!/bin/sh\nexec {shutil.which("ssh")} -F {ssh}/config -o BatchMode=yes "$@"\n'
        )
        (commands / "ssh").chmod(0o755)
        path = os.pathsep.join(
            [str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        self.env = {"HOME": str(self.home), "PATH": path} | IDENTITY
        self.trust_key("host")

    def trust_key(self, name: str) -> None:
        """Put a host key into known_hosts."""
        key = " ".join((self.root / f"{name}.pub").read_text().split()[:2])
        (self.home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}\n")

    def start(self) -> None:
        run(str(SSHD), "-f", f"{self.root}/sshd_config", "-E", f"{self.root}/log")
        wait_until((self.root / "pid").exists, "the server's start", 30)

    def kill(self) -> None:
        """Kill the server with all its connections, as a power cut would."""
        pid = self.root / "pid"
        server = psutil.Process(int(pid.read_text()))
        for process in (server, *server.children(recursive=True)):
            process.kill()
        pid.unlink(missing_ok=True)

    def run(
        self, project: Project, script: str, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run commands of the page, with the test's folder in place of the server's."""
        origin = shlex.quote(str(self.root.parent / "origin.git"))
        script = "set -e\n" + script.replace(FOLDER, str(self.storage)).replace(REPOSITORY, origin)
        return project.run("bash", "-c", script, env=self.env, check=check)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    require(SSHD, "an OpenSSH server (Debian's openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # usually made by the service
    found = Server(tmp_path / "server")
    found.start()
    yield found
    found.kill()


@pytest.fixture
def shared(finished: Project, server: Server, tmp_path: Path) -> Project:
    """Return a project with a bare Git remote, and the server as DVC remote."""
    project = finished.copy_to(tmp_path / "here")
    project.run("git", "branch", "-M", "main")
    bare = tmp_path / "origin.git"
    run("git", "init", "--quiet", "--bare", "-b", "main", bare)
    project.run("git", "remote", "add", "origin", str(bare))
    server.run(project, CONFIGURE + ADD)
    return project


def clone_of(project: Project, root: Path) -> Project:
    origin = project.run("git", "remote", "get-url", "origin").stdout.strip()
    run("git", "clone", "--quiet", origin, root)
    return Project.at(root)


def test_push_and_pull(shared: Project, server: Server, tmp_path: Path) -> None:
    server.run(shared, PUSH)
    shared.run("dvc", "exp", "run", "--name", "longer", "-S", f"train.epochs={LONGER}")
    server.run(shared, PUSH_EXPERIMENT + PUSH)

    elsewhere = clone_of(shared, tmp_path / "elsewhere")
    done = server.run(elsewhere, PULL)
    assert "Data and pipelines are up to date." in done.stdout
    shared.run("git", "checkout", "--quiet", ".")
    shared.run("dvc", "checkout", "--quiet", "--force")
    assert elsewhere.hashes() == shared.hashes()

    done = server.run(elsewhere, PULL_EXPERIMENT)
    assert "longer" in done.stdout
    assert "train.epochs: 3 -> 4" in done.stdout


def test_a_version_of_the_model_is_registered_promoted_fetched_and_verified(
    shared: Project, server: Server, tmp_path: Path
) -> None:
    elsewhere = Project.at(tmp_path / "elsewhere")
    elsewhere.root.mkdir()
    server.run(shared, PUSH)
    done = server.run(elsewhere, GET, check=False)
    assert "Unable to find artifact 'classifier'" in done.stderr
    server.run(shared, REGISTER)
    server.run(elsewhere, GET)
    first = (shared.root / "models/model.safetensors").read_bytes()
    for name in ("newest", "model"):
        assert (elsewhere.root / f"{name}.safetensors").read_bytes() == first

    shared.set_params({"train.epochs": LONGER})
    shared.run("dvc", "repro")
    shared.commit("longer")
    server.run(shared, PUSH)
    server.run(shared, REGISTER.replace("v1.0.0", "v1.1.0").replace("#prod#1", "#test#1"))
    server.run(elsewhere, GET.replace("--out", "--force --out"))
    assert (elsewhere.root / "model.safetensors").read_bytes() == first
    second = (shared.root / "models/model.safetensors").read_bytes()
    assert (elsewhere.root / "newest.safetensors").read_bytes() == second != first
    server.run(shared, REGISTER.replace("v1.0.0", "v1.2.0").replace("#prod#1", "#prod#2"))
    server.run(elsewhere, GET.replace("--out", "--force --out"))
    assert (elsewhere.root / "model.safetensors").read_bytes() == second

    clone = clone_of(shared, tmp_path / "clone")
    done = server.run(clone, VERIFY)
    assert done.stdout.endswith(" outputs came out the same\n")


def test_changed_host_key_is_an_error(shared: Project, server: Server) -> None:
    server.trust_key("another_host")
    done = server.run(shared, PUSH, check=False)
    assert done.returncode != 0
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr
    assert not server.storage.exists()
    done = server.run(shared, "dvc push", check=False)  # without `ssh ... true` before it
    assert done.returncode != 0
    assert "Connection lost" in done.stderr
    assert not server.storage.exists()

    server.trust_key("host")
    server.run(shared, PUSH)
    assert server.storage.exists()


def test_server_killed_during_push(shared: Project, server: Server, tmp_path: Path) -> None:
    (shared.root / "big.bin").write_bytes(os.urandom(64_000_000))
    shared.run("dvc", "add", "--quiet", "big.bin")
    shared.commit("a large file")
    command = BackgroundCommand(shared, "bash", "-c", f"set -e\n{PUSH}", env=server.env)

    def begun() -> bool:
        assert command.process.poll() is None, command.text
        return any(path.stat().st_size > 1 << 20 for path in server.storage.rglob("*.tmp"))

    wait_until(begun, "a part of the large file", 120)
    server.kill()
    assert command.wait() != 0
    failed = r"ERROR: failed to push data to the cloud - \d+ files failed to upload"
    assert re.search(failed, command.text)

    server.start()
    server.run(shared, PUSH)
    elsewhere = clone_of(shared, tmp_path / "elsewhere")
    server.run(elsewhere, PULL)
    assert (elsewhere.root / "big.bin").read_bytes() == (shared.root / "big.bin").read_bytes()
