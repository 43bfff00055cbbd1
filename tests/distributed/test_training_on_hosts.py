"""Whole runs on several hosts (network namespaces): the bits of one host, or an error message."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_harness import LONG, Round, fault_round, hosts_with, remove_outputs, train_outputs
from hosts import PORT, Host, Network
from kill_harness import Undisturbed

from project import ROOT, Project, code_blocks, wait_until

READY_SECONDS = 12.0  # for a joining host's agent to start and to reach the rendezvous
PAGE = (ROOT / "docs" / "machines.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has trained on one host, for as many epochs as the others will."""
    project = Project(tmp_path_factory.mktemp("alone") / "project", LONG)
    project.run("dvc", "repro", "tensorize", "weights")
    remove_outputs(project)
    project.stage("train")
    return project


@pytest.fixture
def three_hosts(alone: Project, tmp_path: Path) -> Iterator[list[Host]]:
    with hosts_with(alone, tmp_path, 3) as hosts:
        for host in hosts:
            remove_outputs(host.project)
        yield hosts


def test_one_host_then_three_then_two(alone: Project, three_hosts: list[Host]) -> None:
    coordinator = three_hosts[0].coordinate("1:3")
    coordinator.wait_for(", epoch 5/")
    assert " MB each way" not in coordinator.text
    workers = three_hosts[0].processes_of("distributed.worker")
    for process in workers:  # or training might end before the others are ready
        os.kill(process, signal.SIGSTOP)
    others = [host.join(three_hosts[0]) for host in three_hosts[1:]]
    coordinator.wait_for("(3 machines)")
    time.sleep(READY_SECONDS)
    for process in workers:
        os.kill(process, signal.SIGCONT)
    coordinator.wait_for(", 3 machines, ")
    three_hosts[2].signal(signal.SIGKILL)
    coordinator.wait_for(
        f"lost {three_hosts[2].address}; resuming with 2 machines from the last checkpoint"
    )
    assert coordinator.wait() == 0, coordinator.text
    assert others[0].wait(30) == 0, others[0].text
    assert train_outputs(three_hosts[0].project) == train_outputs(alone)
    summary = coordinator.lines[-1]
    assert re.search(r"portable, 2 machines, [0-9.]+ MB each way; models/model", summary), summary
    last = f"join: the run is over; {three_hosts[0].address}:{PORT} has the results"
    assert others[0].lines[-1] == last
    assert not any(host.processes() for host in three_hosts)
    assert not list((three_hosts[0].project.root / "checkpoints").iterdir())
    assert not any(train_outputs(host.project) for host in three_hosts[1:])


@pytest.mark.parametrize(
    ("fault", "seed"), [(Round.frozen, 1), (Round.coordinator_killed, 2), (Round.lossy, 3)]
)
def test_faults(alone: Project, tmp_path: Path, fault: Callable[[Round], None], seed: int) -> None:
    with hosts_with(alone, tmp_path, 2) as hosts:
        assert fault_round(hosts, train_outputs(alone), fault, seed) < 60


def commands(heading: str) -> list[str]:
    """Return the shell blocks in a section of the page."""
    return code_blocks(PAGE.split(f"## {heading}\n")[1].split("\n## ")[0])


def test_commands_of_the_page(undisturbed: tuple[Project, Undisturbed], tmp_path: Path) -> None:
    """All outputs from two laptops, the second without data, are those of one."""
    alone, expected = undisturbed
    on_first, on_second = commands("Two laptops")
    with Network() as network:
        laptops = [network.add(alone.clone_to(tmp_path / name)) for name in ("one", "two")]
        address = re.search(r"ADDRESS=(\S+)", on_first)
        assert address
        here = f"{laptops[0].address}:{address[1].split(':')[1]}"
        coordinator = laptops[0].start(
            "bash", "-ec", on_first.replace(address[1], here), env={"IMAGE_PIPELINE_TOKEN": ""}
        )
        coordinator.wait_for("IMAGE_PIPELINE_TOKEN=")
        printed = re.search(r"train:   (IMAGE_PIPELINE_TOKEN=\S+ python .*)", coordinator.text)
        assert printed
        assert re.sub("[0-9a-f]{32}", "...", printed[1]).split()[1:] == [
            word.replace(address[1], here) for word in on_second.split()[-5:]
        ]
        second = laptops[1].start("bash", "-ec", printed[1], env={"IMAGE_PIPELINE_TOKEN": ""})
        assert coordinator.wait() == 0, coordinator.text
        assert second.wait(30) == 0, second.text
        found = laptops[0].project.hashes()
        assert {name: found[name] for name in expected.outputs if name in found} == {
            name: value for name, value in expected.outputs.items() if name != "dvc.lock"
        }


def test_error_messages(three_hosts: list[Host]) -> None:
    """Each is one line that names the problem; the waiting coordinator is not affected.

    What else is refused: test_rendezvous_server.py and test_fingerprint.py.
    """
    waiting, other, free = three_hosts
    coordinator = waiting.coordinate("2", env={"IMAGE_PIPELINE_WAIT": "60"})
    coordinator.wait_for("waiting at")

    def assert_refused(words: str, host: Host = other, **env: str) -> None:
        done = host.join(waiting, env=env)
        assert done.wait(60) == 1, done.text
        error = done.lines[-1]
        assert error.startswith("join: error: "), done.text
        assert words in error, error
        assert "Traceback" not in done.text

    assert_refused("rejects this token", IMAGE_PIPELINE_TOKEN="x" * 20)
    root = other.project.root
    changed = root / "src/image_pipeline/training/checkpoint.py"
    with changed.open("a") as file:
        file.write("\n")
    assert_refused(
        "src/image_pipeline/training/checkpoint.py differs from the coordinator's, which is at"
    )
    other.project.run("git", "checkout", "--quiet", str(changed))
    other.project.set_params({"train.epochs": 9})
    assert_refused(f"train.epochs is 9 here and {LONG['train.epochs']} on the coordinator")
    other.project.run("git", "checkout", "--quiet", "params.yaml")
    tensors = root / "data/tensors/train.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.unlink()  # the file may be a link into DVC's cache
    tensors.write_bytes(content)
    assert_refused("data/tensors/train.safetensors differs from the coordinator's; run `dvc pull`")

    interrupted = free.join(other)
    interrupted.wait_for("cannot be reached yet (connection refused)")
    interrupted.process.send_signal(signal.SIGINT)
    assert interrupted.wait(10) == 130
    assert interrupted.lines[-1] == "join: error: interrupted"
    too_few = free.coordinate("2:3", env={"IMAGE_PIPELINE_WAIT": "1"})
    assert too_few.wait(60) == 1
    assert too_few.lines[-1] == (
        "train: error: too few machines: 1 of at least 2 after waiting 1 s; start the others, "
        "lower IMAGE_PIPELINE_MACHINES (now 2:3) or unset it, or raise IMAGE_PIPELINE_WAIT, then "
        "run `dvc repro` again to resume"
    )
    assert (
        coordinator.text.count(f"a connection from {other.address} was refused: wrong token") == 1
    )
    assert coordinator.text.count(f"a machine at {other.address} was refused: ") == 3
    assert coordinator.process.poll() is None
    coordinator.process.send_signal(signal.SIGTERM)
    assert coordinator.wait(10) == 143
    wait_until(lambda: not waiting.processes(), "end of all processes of the coordinator", 10)
