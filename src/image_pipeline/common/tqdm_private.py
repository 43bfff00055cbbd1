"""The private member of tqdm that is used here, with its reason; no other module has any.

`tests/repository/test_private_members.py` says what an upgrade has taken away.
"""

import sys


def open_bars() -> int:
    """Return the number of progress bars that are open; it imports nothing.

    An error is printed over a bar. tqdm's own `external_write_mode` takes locks, which a signal
    handler may not.
    """
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    return len(getattr(tqdm, "_instances", ()))
