"""Folders of YAML files that users choose by name: recipes and search spaces."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_pipeline.common.errors import ParamsError, one_line


@dataclass(frozen=True)
class NamedYaml:
    """A folder of YAML files; the first line of each is a comment that describes it.

    Attributes:
        kind: what the files are, for messages.
        folder: where they are, relative to the project's root.
    """

    kind: str
    folder: Path

    def names(self) -> list[str]:
        """Return the names of the files, without .yaml, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

    def headline(self, name: str) -> str:
        """Return the description in a file's first line."""
        lines = self.path(name).read_text(encoding="utf-8").splitlines()
        return lines[0].removeprefix("# ") if lines else ""

    def print_all(self) -> None:
        """Print every name with its description."""
        for name in self.names():
            print(f"{name:12} {self.headline(name)}")

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self.folder / f"{name}.yaml"

    def read(self, name: str) -> Any:
        """Read a file.

        Raises:
            ParamsError: there is no such file, or it is not valid YAML.
        """
        if name not in self.names():
            raise ParamsError(
                f"there is no {self.kind} `{one_line(name, 60)}` in {self.folder.resolve()}; there "
                f"are {', '.join(self.names()) or 'none: run from the root of the project'}"
            )
        try:
            return YAML(typ="safe").load(self.path(name))
        except YAMLError as error:
            raise ParamsError(f"{self.path(name)}: not valid YAML: {one_line(error)}") from None
