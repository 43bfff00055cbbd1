"""Every private member of DVC that is used here, with its reason; no other module has any.

`tests/repository/test_private_members.py` says what an upgrade has taken away.
"""

from collections.abc import Collection
from contextlib import suppress
from typing import Any


def drop_orphaned(queue: Any, entries: Collection[Any]) -> None:
    """Kill experiments whose workers are gone; mark them as failed, so that they can be removed.

    `dvc queue kill` is not enough: it lists a run as active until its process is reaped, which
    never happens in a container without an init, and only marks what it cannot kill.

    Args:
        queue: DVC's Celery queue.
        entries: of it.
    """
    for entry in entries:
        with suppress(ProcessLookupError):
            queue.proc.kill(entry.stash_rev)
    queue._mark_inactive_tasks_failure({entry: entry.name for entry in entries})
