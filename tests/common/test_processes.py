"""A forked process: its status, and the signals that it leaves to the one that started it."""

import os
import signal
import sys
from collections.abc import Callable

import pytest

from image_pipeline.common.processes import fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def status_of(main: Callable[[], int]) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(fork(main), 0)[1])


def test_it_ends_with_the_functions_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert status_of(lambda: 7) == 7
    assert status_of(lambda: 1 // 0) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_it_leaves_ctrl_c_to_its_parent_and_can_be_terminated() -> None:
    before = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def interrupted() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 3

    def terminated() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 3

    assert status_of(interrupted) == 3
    assert status_of(terminated) == -signal.SIGTERM
    assert before == (signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, []))
