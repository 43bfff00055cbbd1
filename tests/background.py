"""A command that runs beside the tests, in a session of its own, and what it says."""

import os
import subprocess
from collections.abc import Mapping

from project import PATIENCE, Project


class BackgroundCommand:
    """A command in a project's root, as in a terminal of its own."""

    def __init__(
        self, project: Project, *command: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = project.root.parent / f"{project.root.name}.{os.urandom(4).hex()}.log"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=project.root,
                env=project.environment(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """What the command has written so far; carriage returns end lines, too."""
        return self.log.read_text(errors="replace").replace("\r", "\n")

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the command's end and return its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.text}") from None
