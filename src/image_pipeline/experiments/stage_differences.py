"""Two runs, compared by their dvc.lock files, stage by stage: where do they part?"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from image_pipeline.experiments.changes import MISSING, Change, diff, kind_of, locked_params
from image_pipeline.experiments.recorded_runs import stage_order
from image_pipeline.experiments.results import file_hashes
from image_pipeline.experiments.revisions import SHORT


@dataclass(frozen=True)
class DifferingInput:
    """Something that differs between two runs and that no stage computed.

    Attributes:
        kind: one of `changes.KINDS`.
        change: its name, and both values; of a file, the first digits of its hashes.
        stages: that read it, in the pipeline's order.
    """

    kind: str
    change: Change
    stages: list[str]


@dataclass(frozen=True)
class DifferingStage:
    """A stage whose outputs differ.

    Attributes:
        name: of the stage.
        outputs: that differ, with the first digits of both hashes.
        read_the_same: whether its command, params and dependencies are the same. Then the runs part
            here; otherwise it may only follow from that.
    """

    name: str
    outputs: list[Change]
    read_the_same: bool


def differing_inputs(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[DifferingInput]:
    """Return what differs of params, commands and files, but for those that a stage wrote anew.

    Args:
        own: the stages of a dvc.lock.
        other: those to compare them with. Stages that only one of them has are ignored.
    """
    rewritten = {path for path, *_ in diff(file_hashes(own), file_hashes(other))}
    found: dict[tuple[str, Change], list[str]] = {}
    for name in in_both(own, other):
        pair = [{name: stages[name]} for stages in (own, other)]
        changes = [("params", change) for change in diff(*map(locked_params, pair))]
        commands = ({f"the command of {name}": str(stages[name]["cmd"])} for stages in pair)
        changes += [("code", change) for change in diff(*commands)]
        for change in diff(*(file_hashes(stages, "deps") for stages in pair)):
            if change.name not in rewritten:
                changes.append((kind_of(change.name), _shortened(change)))
        for kind, change in changes:
            found.setdefault((kind, change), []).append(name)
    return [DifferingInput(*key, stages) for key, stages in found.items()]


def differing_stages(own: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[DifferingStage]:
    """Yield the stages whose outputs differ, each after those whose outputs it reads.

    Args:
        own: the stages of a dvc.lock.
        other: those to compare them with. Stages that only one of them has are ignored.
    """
    for name in in_both(own, other):
        pair = [{name: stages[name]} for stages in (own, other)]
        if outputs := diff(*map(file_hashes, pair)):
            read = [
                (stages[name]["cmd"], locked_params(stages), file_hashes(stages, "deps"))
                for stages in pair
            ]
            yield DifferingStage(name, [*map(_shortened, outputs)], read[0] == read[1])


def origins(stages: Iterable[DifferingStage]) -> list[DifferingStage]:
    """Return the stages that wrote other outputs though they read the same."""
    return [stage for stage in stages if stage.read_the_same]


def in_both(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the stages that two runs have in common, in the pipeline's order."""
    return [name for name in stage_order(own) if name in other]


def _shortened(change: Change) -> Change:
    values = ("none" if value == MISSING else value[:SHORT] for value in change[1:])
    return Change(change.name, *values)
