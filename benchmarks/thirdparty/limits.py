"""Running something in a process that is forked for it, with limits of time and memory."""

from __future__ import annotations

import math
import multiprocessing
import resource
import signal
from collections.abc import Callable
from typing import Any

_FORKED = multiprocessing.get_context("fork")  # so that what is imported need not be imported again


class NoAnswerError(RuntimeError):
    """The process died without an answer."""


class EndlessError(NoAnswerError):
    """It was ended after all its time."""


def apart(run: Callable[[], Any], seconds: float, gigabytes: float) -> Any:
    """What `run` returns, in a process of its own.

    Args:
        run: what to call there.
        seconds: processor time, so that a busy machine ends nothing.
        gigabytes: memory.

    Raises:
        NoAnswerError: it took longer, took more memory, or died.
    """
    ours, theirs = _FORKED.Pipe(duplex=False)
    process = _FORKED.Process(target=_answer, args=(run, theirs, seconds, gigabytes))
    process.start()
    theirs.close()
    try:
        if not ours.poll(_PATIENCE * seconds):
            raise EndlessError(f"no end within {_PATIENCE * seconds:.0f} s")
        return ours.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        if code == -signal.SIGXCPU:
            raise EndlessError(f"no end within {seconds:.0f} s of processor time") from None
        raise NoAnswerError(f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}") from None
    finally:
        process.kill()
        process.join()


_PATIENCE = 20
"""So many times as long may pass on the clock: what waits for something takes no processor time."""


def _answer(run: Callable[[], Any], connection: Any, seconds: float, gigabytes: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 5))
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    connection.send(run())
    connection.close()
