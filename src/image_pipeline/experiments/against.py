"""`verify --against`: two recorded runs are compared, and nothing runs."""

import sys
from collections.abc import Iterator, Sequence

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.experiments.changes import KINDS
from image_pipeline.experiments.receipts import (
    COMPUTED,
    Receipt,
    first_divergence,
    input_differences,
)
from image_pipeline.experiments.recorded_runs import RecordedRun, Stages
from image_pipeline.experiments.results import file_hashes
from image_pipeline.experiments.stage_differences import (
    DifferingInput,
    DifferingStage,
    differing_inputs,
    differing_stages,
    in_both,
    origins,
)

SHOWN = 3  # stages that read a file


def compare_runs(own: RecordedRun, other: RecordedRun) -> int:
    """Print where two runs part; return the exit status: 0 if all is the same, else 1.

    Raises:
        DataError: they have no record in common.
    """
    if own.stages and other.stages:
        lines, verdict = _compare_stages(own, other)
    elif own.receipt and other.receipt:
        lines, verdict = _compare_receipts(own.stages, own.receipt, other.receipt)
    else:
        name = other.name if own.receipt else own.name
        raise DataError(f"{paths.RECEIPT}: not in {name}; `dvc repro` writes it")
    for line in lines:
        print(f"DIFFERS  {line}")
    print(f"verify: {own.name} and {other.name} {verdict}")
    return int(bool(lines))


def _compare_receipts(stages: Stages, ours: Receipt, theirs: Receipt) -> tuple[list[str], str]:
    """Return what differs, a line each, and the verdict, if there is no dvc.lock of the other."""
    inputs = list(input_differences(ours, theirs, stages))
    lines = [f"{one_line(name)}: {one_line(how)}" for name, how in inputs]
    divergence = first_divergence(ours, theirs)
    if divergence:
        lines.append(divergence)
    if inputs:
        return lines, "are runs of different params or data"
    if divergence:
        return lines, "part, with the same params and data"
    hashes = sum(len(ours[section]) for section in ("inputs", *COMPUTED))
    return lines, f"are the same: params and all {hashes} hashes"


def _compare_stages(own: RecordedRun, other: RecordedRun) -> tuple[list[str], str]:
    """Return what differs, a line each, and the verdict."""
    only = [f"{one_line(name)}: only here" for name in own.stages if name not in other.stages]
    only += [f"{one_line(name)}: only there" for name in other.stages if name not in own.stages]
    inputs = differing_inputs(own.stages, other.stages)
    stages = list(differing_stages(own.stages, other.stages))
    lines = [f"the stage {line}" for line in only] + [*map(_input_line, inputs)]
    for stage in origins(stages) or stages[:1]:
        lines += _stage_lines(stage, own.receipt, other.receipt)
    verdict = _verdict(inputs, stages)
    if not verdict:
        names = in_both(own.stages, other.stages)
        outputs = len(file_hashes({name: own.stages[name] for name in names}))
        where = f" in the {len(names)} stages that both have run" if only else ""
        verdict = f"are the same{where}: params, code, data and all {outputs} outputs"
    return lines, verdict


def _input_line(found: DifferingInput) -> str:
    name, here, there = found.change
    line = f"{one_line(name)}: {one_line(f'{here} here, {there} there')}"
    if found.kind == "params":
        return line
    more = len(found.stages) - SHOWN
    stages = ", ".join(map(one_line, found.stages[:SHOWN]))
    return f"{line}; {found.kind} of {stages}{f' and {more} more' if more > 0 else ''}"


def _stage_lines(
    stage: DifferingStage, ours: Receipt | None, theirs: Receipt | None
) -> Iterator[str]:
    """Yield the outputs of a stage that differ; of a training, the first tensor that does, too."""
    for name, here, there in stage.outputs:
        hashes = one_line(f"{here} here, {there} there")
        yield f"{one_line(name)}: {hashes}; an output of {one_line(stage.name)}"
    receipt = paths.RECEIPT.as_posix()
    if receipt not in {name for name, *_ in stage.outputs}:
        return
    if ours and theirs:
        if divergence := first_divergence(ours, theirs):
            yield divergence
    else:
        said = f"the {receipt} of both would say at which step and in which tensor"
        print(f"verify: note: {said}", file=sys.stderr)


def _verdict(inputs: Sequence[DifferingInput], stages: Sequence[DifferingStage]) -> str:
    """Say why two runs differ, and what to do; empty if the stages that both have are the same."""
    kinds = " and ".join(kind for kind in KINDS if kind in {found.kind for found in inputs})
    first = one_line(stages[0].name) if stages else ""
    if parted := origins(stages):
        also = f"; their {kinds} differ, too" if kinds else ""
        return (
            f"part in {one_line(parted[0].name)}: it read the same and wrote other bits{also}; "
            "`verify` on each says whose are not what the code produces"
        )
    if inputs:
        outputs = f"the outputs differ from {first} on" if stages else "all outputs are the same"
        return f"are runs of different {kinds}; {outputs}"
    if stages:
        return f"differ in {first}, which read what no stage wrote; run `dvc repro` on both"
    return ""
