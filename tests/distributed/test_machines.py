"""Whole runs on several hosts, network namespaces: the bits of one machine, or a refusal."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_harness import LONG, Round, fault_round, forget, hosts_of, trained
from hosts import PORT, Host, Network, wait_until
from kill_harness import Undisturbed

from project import ROOT, Project

READY_SECONDS = 12.0  # that PyTorch's agent takes to start, and to be seen
PAGE = (ROOT / "docs" / "machines.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has trained on one machine, as long as the others will."""
    project = Project(tmp_path_factory.mktemp("alone") / "project", LONG)
    project.run("dvc", "repro", "tensorize")
    forget(project)
    project.stage("train")
    return project


@pytest.fixture
def three(alone: Project, tmp_path: Path) -> Iterator[list[Host]]:
    with hosts_of(alone, tmp_path, 3) as hosts:
        for host in hosts:
            forget(host.project)
        yield hosts


def test_one_machine_then_three_then_two(alone: Project, three: list[Host]) -> None:
    first = three[0].lead("1:3")
    first.wait_for(", epoch 5/")
    assert " MB out and in" not in first.text
    training = three[0].processes_of("machines.part")
    for process in training:  # else it might end before the others are ready
        os.kill(process, signal.SIGSTOP)
    others = [host.join(three[0]) for host in three[1:]]
    first.wait_for("(3 machines)")
    time.sleep(READY_SECONDS)
    for process in training:
        os.kill(process, signal.SIGCONT)
    first.wait_for(", 3 machines, ")
    three[2].signal(signal.SIGKILL)
    first.wait_for(f"{three[2].address} is gone; going on with 2 machines from the last checkpoint")
    assert first.wait() == 0, first.text
    assert others[0].wait(30) == 0, others[0].text
    assert trained(three[0].project) == trained(alone)
    told = first.lines[-1]
    assert re.search(r"portable, 2 machines, [0-9.]+ MB out and in; models/model", told), told
    last = f"join: the run is over; {three[0].address}:{PORT} has the results"
    assert others[0].lines[-1] == last
    assert not any(host.processes() for host in three)
    assert not list((three[0].project.root / "checkpoints").iterdir())
    assert not any(trained(host.project) for host in three[1:])


@pytest.mark.parametrize(
    ("fault", "seed"), [(Round.frozen, 1), (Round.first_killed, 2), (Round.lossy, 3)]
)
def test_faults(alone: Project, tmp_path: Path, fault: Callable[[Round], None], seed: int) -> None:
    with hosts_of(alone, tmp_path, 2) as hosts:
        assert fault_round(hosts, trained(alone), fault, seed) < 60


def commands(heading: str) -> list[str]:
    """Return the blocks of commands in a section of the page."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_page(undisturbed: tuple[Project, Undisturbed], tmp_path: Path) -> None:
    """Every output on two laptops, the second of which has no data, is that of one."""
    alone, expected = undisturbed
    on_first, on_second = commands("Two laptops")
    with Network() as network:
        laptops = [network.add(alone.clone_to(tmp_path / name)) for name in ("one", "two")]
        address = re.search(r"ADDRESS=(\S+)", on_first)
        assert address
        here = f"{laptops[0].address}:{address[1].split(':')[1]}"
        first = laptops[0].start(
            "bash", "-ec", on_first.replace(address[1], here), env={"IMAGE_PIPELINE_TOKEN": ""}
        )
        first.wait_for("IMAGE_PIPELINE_TOKEN=")
        printed = re.search(r"train:   (IMAGE_PIPELINE_TOKEN=\S+ python .*)", first.text)
        assert printed
        assert re.sub("[0-9a-f]{32}", "...", printed[1]).split()[1:] == [
            word.replace(address[1], here) for word in on_second.split()[-5:]
        ]
        second = laptops[1].start("bash", "-ec", printed[1], env={"IMAGE_PIPELINE_TOKEN": ""})
        assert first.wait() == 0, first.text
        assert second.wait(30) == 0, second.text
        found = laptops[0].project.hashes()
        assert {name: found[name] for name in expected.outputs if name in found} == {
            name: value for name, value in expected.outputs.items() if name != "dvc.lock"
        }


def test_refusals(three: list[Host]) -> None:
    """Each in a line that names what is wrong, with no effect on the machine that waits."""
    waiting, other, free = three
    address = f"{waiting.address}:{PORT}"
    first = waiting.lead("2", env={"IMAGE_PIPELINE_WAIT": "60"})
    first.wait_for("waiting at")

    def refused(words: str, host: Host = other, **env: str) -> None:
        done = host.join(waiting, env=env)
        assert done.wait(60) == 1, done.text
        error = done.lines[-1]
        assert error.startswith("join: error: "), done.text
        assert words in error, error
        assert "Traceback" not in done.text

    refused("does not take this token", IMAGE_PIPELINE_TOKEN="x" * 20)
    root = other.project.root
    changed = root / "src/image_pipeline/training/lanes.py"
    with changed.open("a") as file:
        file.write("\n")
    refused(
        "src/image_pipeline/training/lanes.py is not as on the first machine; the first machine is "
        "at commit"
    )
    other.project.run("git", "checkout", "--quiet", str(changed))
    other.project.set_params({"train.epochs": 9})
    refused(f"train.epochs is 9 here and {LONG['train.epochs']} on the first machine")
    other.project.run("git", "checkout", "--quiet", "params.yaml")
    libraries = root.parent / "libraries"
    (libraries / "torch-2.0.1.dist-info").mkdir(parents=True)
    (libraries / "torch-2.0.1.dist-info/METADATA").write_text("Name: torch\nVersion: 2.0.1\n")
    refused("torch is 2.0.1 here and ", PYTHONPATH=f"{libraries}:{root / 'src'}")
    tensors = root / "data/tensors/train.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.unlink()  # the file may be a link into DVC's cache
    tensors.write_bytes(content)
    refused("data/tensors/train.safetensors has other bytes than on the first machine; `dvc pull`")

    copy = shutil.copytree(waiting.project.root, root.parent / "copy")
    again = waiting.lead("2", ("bash", "-c", f"cd {copy} && python stages/train.py"))
    assert again.wait(60) == 1
    assert again.lines == [
        f"train: error: IMAGE_PIPELINE_ADDRESS: {address} is taken by another program; choose "
        "another port"
    ]
    nobody = free.start(
        *("python", "-m", "image_pipeline", "join", f"{other.address}:{PORT}"),
        env={"IMAGE_PIPELINE_WAIT": "2"},
    )
    assert nobody.wait(60) == 1
    assert (
        f"{other.address}:{PORT} is not to be reached (connection refused) for 2 s"
        in (nobody.lines[-1])
    )
    interrupted = free.join(other)
    interrupted.wait_for("is not to be reached yet (connection refused)")
    interrupted.process.send_signal(signal.SIGINT)
    assert interrupted.wait(10) == 130
    assert interrupted.lines[-1] == "join: error: interrupted"
    lonely = free.lead("2:3", env={"IMAGE_PIPELINE_WAIT": "1"})
    assert lonely.wait(60) == 1
    assert lonely.lines[-1] == (
        "train: error: too few machines: 1 of at least 2 were here for 1 s; start the others, "
        "lower IMAGE_PIPELINE_MACHINES (now 2:3) or unset it, or raise IMAGE_PIPELINE_WAIT, then "
        "run `dvc repro` again, which goes on from here"
    )
    strange = first.text.count("was turned away: it does not know the token")
    assert strange == 1, first.text
    assert first.text.count("was refused:") == 4, first.text
    assert first.process.poll() is None
    first.process.send_signal(signal.SIGTERM)
    assert first.wait(10) == 143
    wait_until(lambda: not waiting.processes(), "the end of what the first machine has started", 10)
