"""Hosts for the tests: network namespaces of this kernel, each with a clone of a project.

They are connected by a bridge; a process reaches other hosts only through its host's link.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from background import BackgroundCommand
from project import PATIENCE, Project, require, run, wait_until

PORT = 29400
TOKEN = "a token that only the tests know"
COMMON = {"IMAGE_PIPELINE_TOKEN": TOKEN, "IMAGE_PIPELINE_WAIT": "120"}


def ip(*words: str, check: bool = True) -> str:
    return run("ip", *words, check=check).stdout


class Running(BackgroundCommand):
    """A command that runs on a host, and its output."""

    def __init__(self, host: "Host", command: tuple[str, ...], env: Mapping[str, str]) -> None:
        there = ("ip", "netns", "exec", host.name)
        super().__init__(host.project, *there, *command, env={**COMMON, **env})

    @property
    def lines(self) -> list[str]:
        """Printed lines, without the progress bar."""
        return [line for line in self.text.splitlines() if line and "%|" not in line]

    def wait_for(self, words: str, seconds: float = PATIENCE) -> None:
        wait_until(
            lambda: words in self.text or self.process.poll() is not None, repr(words), seconds
        )
        assert words in self.text, self.text

    def epoch(self) -> int:
        """The last finished epoch, from the progress bar."""
        found = self.text.rpartition(", epoch ")[2].split("/")[0]
        return int(found) if found.isdigit() else 0


class Host:
    """A network namespace with an address and a clone of the project."""

    def __init__(self, network: "Network", number: int, project: Project) -> None:
        self.network, self.name, self.project = network, f"{network.name}h{number}", project
        self.started: list[Running] = []
        self.address = f"10.77.{network.subnet}.{number}"
        self.link = f"{network.name}v{number}"  # the bridge's end of its veth pair
        ip("netns", "add", self.name)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.link, "master", network.name, "up")
        self.ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self.ip("link", "set", device, "up")

    @property
    def endpoint(self) -> str:
        """Where others join, if this host is the coordinator."""
        return f"{self.address}:{PORT}"

    def ip(self, *words: str) -> None:
        ip("-n", self.name, *words)

    def start(self, *command: str, env: Mapping[str, str] | None = None) -> Running:
        self.started.append(Running(self, command, env or {}))
        return self.started[-1]

    def coordinate(
        self,
        machines: str,
        command: tuple[str, ...] = ("python", "stages/train.py"),
        env: Mapping[str, str] | None = None,
    ) -> Running:
        variables = {"IMAGE_PIPELINE_MACHINES": machines, "IMAGE_PIPELINE_ADDRESS": self.endpoint}
        return self.start(*command, env={**variables, **(env or {})})

    def join(self, coordinator: "Host", env: Mapping[str, str] | None = None) -> Running:
        return self.start("python", "-m", "image_pipeline", "join", coordinator.endpoint, env=env)

    def processes(self) -> list[int]:
        return [int(number) for number in ip("netns", "pids", self.name).split()]

    def processes_of(self, module: str) -> list[int]:
        """Return the processes of this host whose command line contains a module's name."""
        commands = {
            number: Path(f"/proc/{number}/cmdline").read_bytes() for number in self.processes()
        }
        return [number for number, words in commands.items() if module.encode() in words]

    def signal(self, number: int) -> None:
        """Send a signal to all processes of this host."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def set_link(self, state: str) -> None:
        ip("link", "set", self.link, state)

    def tc(self, *words: str) -> None:
        """Run `tc` for the packets that leave this host and for those that reach it.

        `DEVICE` stands for either end of the host's link.
        """
        for where, device in ((["-n", self.name], "eth0"), ([], self.link)):
            run("tc", *where, *(device if word == "DEVICE" else word for word in words))

    def limit(self, rate: str, delay: str = "") -> None:
        """Limit the link to a rate for `tc`, such as 1gbit; add a delay if the kernel can."""
        queue = ("tbf", "rate", rate, "burst", "1mb", "latency", "100ms")
        self.tc("qdisc", "replace", "dev", "DEVICE", "root", "handle", "1:", *queue)
        if delay and self.network.has_netem():
            kind = ("netem", "delay", delay)
            self.tc("qdisc", "replace", "dev", "DEVICE", "parent", "1:1", *kind)

    def drop_packets(self, fraction: float) -> None:
        """Drop this fraction of the packets at random, each way.

        A BPF filter of four instructions sends them to a class whose queue has no room: netem, made
        for this, is not in every kernel.
        """
        instructions = (
            "32 0 0 4294963256",
            f"37 1 0 {int(fraction * (1 << 32))}",
            "6 0 0 4294967295",
        )
        # Load a random number; compare; return -1; return 0.
        program = f"4,{','.join(instructions)},6 0 0 0"
        self.tc("qdisc", "replace", "dev", "DEVICE", "root", "handle", "1:", "htb", "default", "1")
        for name in ("1:1", "1:2"):
            kind = ("htb", "rate", "10gbit", "quantum", "60000")
            self.tc("class", "add", "dev", "DEVICE", "parent", "1:", "classid", name, *kind)
        self.tc("qdisc", "add", "dev", "DEVICE", "parent", "1:2", "pfifo", "limit", "0")
        classify = ("bpf", "bytecode", program, "flowid", "1:2")
        self.tc("filter", "add", "dev", "DEVICE", "parent", "1:", *classify)

    def reset_link(self) -> None:
        """Undo `limit` and `drop_packets`."""
        self.tc("qdisc", "replace", "dev", "DEVICE", "root", "pfifo", "limit", "1000")

    def remove(self) -> None:
        self.signal(signal.SIGKILL)
        wait_until(lambda: not self.processes(), "end of all processes of a host")
        for running in self.started:
            running.wait()
        ip("netns", "delete", self.name, check=False)
        ip("link", "delete", self.link, check=False)


class Network:
    """A bridge with hosts; the context manager removes it, with all their processes."""

    def __init__(self, subnet: int | None = None) -> None:
        require(os.geteuid() == 0 and shutil.which("ip"), "root and `ip` (Debian's iproute2)")
        done = run("ip", "netns", "add", "probe", check=False)
        require(done.returncode == 0, "permission to create network namespaces")
        ip("netns", "delete", "probe")
        self.subnet = os.getpid() % 250 if subnet is None else subnet
        self.name = f"ipl{self.subnet}"
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        ip("link", "add", self.name, "type", "bridge")
        ip("link", "set", self.name, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.set_link("up")
            host.remove()
        ip("link", "delete", self.name)

    def has_netem(self) -> bool:
        """Whether this kernel can delay packets."""
        words = ["tc", "qdisc", "replace", "dev", self.name, "root", "netem", "delay", "1us"]
        done = run(*words, check=False)
        if not done.returncode:
            run(*words[:2], "del", *words[3:6])
        return done.returncode == 0

    def add(self, project: Project) -> Host:
        host = Host(self, len(self.hosts) + 1, project)
        self.hosts.append(host)
        return host
