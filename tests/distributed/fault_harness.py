"""Faults at random moments of a run on several hosts, which must give the bits of one host.

`make soak-machines` runs the long form; test_training_on_hosts.py a short one. Needs root and `ip`.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hosts import Host, Network, Running

from project import SMALL, TRAINED, Project

EPOCHS = 120
LONG = {**SMALL, "train.batch_size": 512, "train.epochs": EPOCHS}
HOSTS = 3
ABSENCE_SECONDS = (2.0, 14.0)  # some are long enough to be noticed
PACKET_LOSS = 0.05


class Round:
    """One run with a fault, and the longest time without a finished epoch."""

    def __init__(self, hosts: list[Host], rng: random.Random) -> None:
        self.hosts, self.rng = hosts, rng
        self.coordinator = self._start_coordinator()
        self.others = {host: host.join(hosts[0]) for host in hosts[1:]}
        self.epoch, self.last, self.longest_stall = 0, 0.0, 0.0

    def _start_coordinator(self) -> Running:
        return self.hosts[0].coordinate(f"2:{len(self.hosts)}")

    def watch(self, until: Callable[[], object], seconds: float = 300.0) -> None:
        """Wait for a condition, and measure stalls."""
        begin = now = time.monotonic()
        while not until():
            now = time.monotonic()
            assert now - begin < seconds, f"timeout after {seconds} s:\n{self.output()}"
            if (epoch := self.coordinator.epoch()) > self.epoch:
                self.epoch, self.last = epoch, now
            if self.epoch:  # not at the start, where hosts are waited for
                self.longest_stall = max(self.longest_stall, now - self.last)
            time.sleep(0.05)

    def output(self) -> str:
        return "\n\n".join(
            "\n".join(each.lines) for each in (self.coordinator, *self.others.values())
        )

    def random_other(self) -> Host:
        return self.rng.choice(self.hosts[1:])

    def pause(self) -> None:
        end = time.monotonic() + self.rng.uniform(*ABSENCE_SECONDS)
        self.watch(lambda: time.monotonic() > end)

    # The faults:

    def killed(self) -> None:
        """All processes of a host are killed; it joins again."""
        host = self.random_other()
        host.signal(signal.SIGKILL)
        self.pause()
        self.others[host] = host.join(self.hosts[0])

    def frozen(self) -> None:
        """All processes of a host, which may be the coordinator, are stopped for a while."""
        host = self.rng.choice(self.hosts)
        host.signal(signal.SIGSTOP)
        self.pause()
        host.signal(signal.SIGCONT)

    def unplugged(self) -> None:
        host = self.rng.choice(self.hosts)
        host.set_link("down")
        self.pause()
        host.set_link("up")

    def lossy(self) -> None:
        """A host loses packets until the end of the run."""
        self.rng.choice(self.hosts).drop_packets(PACKET_LOSS)

    def coordinator_killed(self) -> None:
        """All processes of the coordinator are killed; it is started again."""
        self.hosts[0].signal(signal.SIGKILL)
        self.pause()
        self.coordinator = self._start_coordinator()

    def joined_twice(self) -> None:
        """A host joins a second time, in the same folder."""
        again = self.random_other().join(self.hosts[0])
        assert again.wait() == 1, again.text
        assert "join: error: this folder already takes part in a training run" in again.text


FAULTS = (
    Round.killed,
    Round.frozen,
    Round.unplugged,
    Round.lossy,
    Round.coordinator_killed,
    Round.joined_twice,
)


def fault_round(
    hosts: list[Host], expected: dict[str, str], fault: Callable[[Round], None], seed: int
) -> float:
    """Train from the start with a fault; return the longest stall in seconds.

    Raises:
        AssertionError: with the seed in its message.
    """
    rng = random.Random(seed)
    for host in hosts:
        host.reset_link()
        remove_outputs(host.project)
    after = rng.randint(1, EPOCHS // 2)
    run = Round(hosts, rng)
    try:
        run.watch(
            lambda: run.coordinator.epoch() >= after or run.coordinator.process.poll() is not None
        )
        fault(run)
        run.watch(lambda: run.coordinator.process.poll() is not None)
        assert run.coordinator.wait() == 0, run.output()
        for host, other in run.others.items():
            assert other.wait(60) == 0, f"{host.name}:\n{run.output()}"
        remaining = [host.processes() for host in hosts]
        assert not any(remaining), f"processes remain: {remaining}"
        assert train_outputs(hosts[0].project) == expected
        assert not any(train_outputs(host.project) for host in hosts[1:]), (
            "another host wrote results"
        )
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {fault.__name__} at {after}: {error}") from None
    return run.longest_stall


def train_outputs(project: Project) -> dict[str, str]:
    """Return the hashes of the train stage's outputs."""
    return {name: found for name, found in project.hashes().items() if name in TRAINED}


def remove_outputs(project: Project) -> None:
    """Remove the train stage's outputs, as DVC does, and its checkpoints."""
    for path in (*(project.root / name for name in TRAINED), *project.root.glob("checkpoints/*")):
        path.unlink(missing_ok=True)


@contextmanager
def hosts_with(project: Project, folder: Path, count: int = HOSTS) -> Iterator[list[Host]]:
    """Yield hosts, each with a copy of a project that has its tensors."""
    with Network() as network:
        yield [network.add(project.copy_to(folder / f"host{each + 1}")) for each in range(count)]


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default: 0)")
    arguments = parser.parse_args()
    begin, longest = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "alone", LONG)
        project.run("dvc", "repro", "tensorize", "weights")
        remove_outputs(project)
        project.stage("train")
        expected = train_outputs(project)
        with hosts_with(project, Path(folder)) as hosts:
            for number in range(arguments.rounds):
                seed = arguments.seed + number
                fault = FAULTS[seed % len(FAULTS)]
                stall = fault_round(hosts, expected, fault, seed)
                longest = max(longest, stall)
                passed = time.monotonic() - begin
                print(f"seed {seed}: {fault.__name__}, longest stall {stall:.1f} s, {passed:.0f} s")
                sys.stdout.flush()
    print(
        f"{arguments.rounds} rounds of faults in {time.monotonic() - begin:.0f} s: each gave "
        f"the hashes of one host; the longest stall took {longest:.1f} s"
    )


if __name__ == "__main__":
    main()
