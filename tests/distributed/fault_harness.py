"""Faults at random moments of a run on three hosts, which must end in the bits of one machine.

`make soak-machines` runs the long form; test_machines.py a short one. Needs root and `ip`.
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
AWAY = (2.0, 14.0)  # seconds that a host is away: noticed or not
LOSS = 0.05


class Round:
    """One run, the fault in it, and the longest time in which no epoch was done."""

    def __init__(self, hosts: list[Host], rng: random.Random) -> None:
        self.hosts, self.rng = hosts, rng
        self.first = self._lead()
        self.others = {host: host.join(hosts[0]) for host in hosts[1:]}
        self.epoch, self.last, self.longest = 0, 0.0, 0.0

    def _lead(self) -> Running:
        return self.hosts[0].lead(f"2:{len(self.hosts)}")

    def watch(self, until: Callable[[], object], seconds: float = 300.0) -> None:
        """Wait, and measure how long no epoch is done."""
        begin = now = time.monotonic()
        while not until():
            now = time.monotonic()
            assert now - begin < seconds, f"no end in {seconds} s:\n{self.told()}"
            if (epoch := self.first.epoch()) > self.epoch:
                self.epoch, self.last = epoch, now
            if self.epoch:  # not the start, which waits for machines
                self.longest = max(self.longest, now - self.last)
            time.sleep(0.05)

    def told(self) -> str:
        return "\n\n".join("\n".join(each.lines) for each in (self.first, *self.others.values()))

    def other(self) -> Host:
        return self.rng.choice(self.hosts[1:])

    def away(self) -> None:
        end = time.monotonic() + self.rng.uniform(*AWAY)
        self.watch(lambda: time.monotonic() > end)

    # The faults:

    def killed(self) -> None:
        """All processes of a host end at once; it joins again."""
        host = self.other()
        host.signal(signal.SIGKILL)
        self.away()
        self.others[host] = host.join(self.hosts[0])

    def frozen(self) -> None:
        """All processes of a host, which may be the first, stand still for a while."""
        host = self.rng.choice(self.hosts)
        host.signal(signal.SIGSTOP)
        self.away()
        host.signal(signal.SIGCONT)

    def unplugged(self) -> None:
        host = self.rng.choice(self.hosts)
        host.set_link("down")
        self.away()
        host.set_link("up")

    def lossy(self) -> None:
        """A host loses packets until the end of the run."""
        self.rng.choice(self.hosts).lose(LOSS)

    def first_killed(self) -> None:
        """All processes of the first host end at once; it is started again."""
        self.hosts[0].signal(signal.SIGKILL)
        self.away()
        self.first = self._lead()

    def joined_twice(self) -> None:
        """A host joins a second time, in the same folder."""
        again = self.other().join(self.hosts[0])
        assert again.wait() == 1, again.text
        assert "join: error: this folder takes part in a training already" in again.text


FAULTS = (
    Round.killed,
    Round.frozen,
    Round.unplugged,
    Round.lossy,
    Round.first_killed,
    Round.joined_twice,
)


def fault_round(
    hosts: list[Host], expected: dict[str, str], fault: Callable[[Round], None], seed: int
) -> float:
    """Run from nothing with a fault; return the longest stall in seconds.

    Raises:
        AssertionError: something differs, or does not end as it should; the message names the seed.
    """
    rng = random.Random(seed)
    for host in hosts:
        host.clear()
        forget(host.project)
    after = rng.randint(1, EPOCHS // 2)
    run = Round(hosts, rng)
    try:
        run.watch(lambda: run.first.epoch() >= after or run.first.process.poll() is not None)
        fault(run)
        run.watch(lambda: run.first.process.poll() is not None)
        assert run.first.wait() == 0, run.told()
        for host, other in run.others.items():
            assert other.wait(60) == 0, f"{host.name}:\n{run.told()}"
        left = [host.processes() for host in hosts]
        assert not any(left), f"processes are left: {left}"
        assert trained(hosts[0].project) == expected
        assert not any(trained(host.project) for host in hosts[1:]), "another host wrote results"
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {fault.__name__} at {after}: {error}") from None
    return run.longest


def trained(project: Project) -> dict[str, str]:
    """Return the hashes of what the train stage has written."""
    return {name: found for name, found in project.hashes().items() if name in TRAINED}


def forget(project: Project) -> None:
    """Remove what the train stage writes, as DVC does, and what it keeps."""
    for path in (*(project.root / name for name in TRAINED), *project.root.glob("checkpoints/*")):
        path.unlink(missing_ok=True)


@contextmanager
def hosts_of(project: Project, folder: Path, count: int = HOSTS) -> Iterator[list[Host]]:
    """Yield hosts with a copy each of a project that has its tensors."""
    with Network() as network:
        yield [network.add(project.copy_to(folder / f"host{each + 1}")) for each in range(count)]


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first round (0)")
    arguments = parser.parse_args()
    begin, longest = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "alone", LONG)
        project.run("dvc", "repro", "tensorize")
        forget(project)
        project.stage("train")
        expected = trained(project)
        with hosts_of(project, Path(folder)) as hosts:
            for number in range(arguments.rounds):
                seed = arguments.seed + number
                fault = FAULTS[seed % len(FAULTS)]
                stall = fault_round(hosts, expected, fault, seed)
                longest = max(longest, stall)
                passed = time.monotonic() - begin
                print(f"seed {seed}: {fault.__name__}, longest stall {stall:.1f} s, {passed:.0f} s")
                sys.stdout.flush()
    print(
        f"{arguments.rounds} rounds of faults in {time.monotonic() - begin:.0f} s: each ended in "
        f"the hashes of one machine; the longest stall took {longest:.1f} s"
    )


if __name__ == "__main__":
    main()
