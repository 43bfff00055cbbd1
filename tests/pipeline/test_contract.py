"""dvc.yaml says what the code does, in both directions; its outputs are in test_whole_run.py."""

from typing import Any

import pytest
from code_facts import has_code, imported_files, params_read, stage_names
from ruamel.yaml import YAML

from image_pipeline.common.params import Params
from project import ROOT

DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, Any] = DVC["stages"]


def test_stages_scripts_and_params_carry_the_same_names() -> None:
    names = set(STAGES)
    assert names == stage_names() == set(Params.model_fields) - {"machine"}
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python stages/{name}.py"
        assert stage["desc"]


def code_deps(name: str) -> list[str]:
    return [dep for dep in STAGES[name]["deps"] if dep.startswith(("src/", "stages/"))]


@pytest.mark.parametrize("name", STAGES)
def test_code_deps_are_what_the_stage_imports(name: str) -> None:
    declared, imported = code_deps(name), imported_files(name)
    assert len(declared) <= 10
    for file in imported:
        assert any(file == dep or file.startswith(f"{dep}/") for dep in declared), file
    for dep in declared:
        assert any(file == dep or file.startswith(f"{dep}/") for file in imported), dep


def test_no_folder_mixes_modules_of_stages_that_should_not_rerun_each_other() -> None:
    """What lies in a folder is imported by the first stage, down the line, that depends on it."""
    seen: set[str] = set()
    for name in STAGES:
        for folder in set(code_deps(name)) - seen:
            seen.add(folder)
            if (ROOT / folder).is_dir():
                files = {
                    path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")
                }
                useless = {file for file in files - imported_files(name) if has_code(ROOT / file)}
                assert not useless, name


def test_every_stage_depends_on_the_libraries_that_compute() -> None:
    assert all("requirements.lock" in stage["deps"] for stage in STAGES.values())
    assert all("requirements-dev.lock" not in stage["deps"] for stage in STAGES.values())


@pytest.mark.parametrize("name", STAGES)
def test_declared_params_are_those_the_stage_reads(name: str) -> None:
    assert set(STAGES[name]["params"]) == params_read(name) - {"machine"}


def test_no_parameter_has_a_name_that_the_run_cache_leaves_out() -> None:
    """It would bring back the outputs of another value: `_get_cache_hash` in DVC's stage/cache.py.

    A parameter of such a name counts for nothing there where dvc.yaml names the block it is in.
    """

    def names(value: object) -> set[str]:
        if not isinstance(value, dict):
            return set()
        return set(value).union(*map(names, value.values()))

    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    assert not names(params) & {"size", "nfiles"}
