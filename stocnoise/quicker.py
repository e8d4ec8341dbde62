"""The quicker of two ways to the same result, found out in passing."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median_high

# Of the time, what trying a way again may take that was slower three times, lest a change of circumstances goes unseen;
# or once by so much that chance does not explain it.
_SHARE = 0.03
_LOSSES = 3
_FAR = 3.0


class _Record:
    """What is known of one way."""

    def __init__(self) -> None:
        self.turns = 0
        self.paces: deque[float] = deque(maxlen=3)
        """Seconds for each unit of work, lately."""
        self.took = 0.0
        """Seconds, the last time."""
        self.losses = 0
        """Turns in which it was slower than the other is, less those in which it was not; from 0 to `_LOSSES`, which is
        also what one turn gives that was slower by far."""

    @property
    def pace(self) -> float:
        """The median, so that one turn which was held up decides nothing."""
        return median_high(self.paces) if self.paces else math.inf

    @property
    def share(self) -> float:
        """Of the time, what trying it again may take: all, if it was slower once."""
        return _SHARE ** (max(self.losses - 1, 0) / (_LOSSES - 1))

    @property
    def unknown(self) -> bool:
        """Whether it is still to be tried: the first of its turns, with new memory and new code, tells only whether it
        is slower by far."""
        return self.turns < 2 and self.losses < _LOSSES

    def note(self, seconds: float, pace: float, other: float) -> None:
        """A turn of this way, where the other way has that pace, infinite if it is not known."""
        self.turns += 1
        self.took = seconds
        if self.turns == 2:
            self.paces.clear()
        self.paces.append(pace)
        if pace > _FAR * other:
            self.losses = _LOSSES
        elif pace >= other and self.turns > 1:
            self.losses = min(self.losses + 1, _LOSSES)
        else:
            self.losses = max(self.losses - 1, 0)


class Quicker:
    """Two ways, False and True. Once both are known, a block goes the one that was quicker lately, for as much work;
    the other is tried again when what it took the last time is no more than its share of the time since.

    A block that goes the way False can go over to the other in the middle, and is to do so when it has taken longer
    than the other does for the whole: then trying it costs little, however slow it is.
    """

    def __init__(self) -> None:
        self.record = {True: _Record(), False: _Record()}
        self.since = 0.0
        """Seconds spent the quicker way since the other was taken."""

    def way(self) -> bool:
        unknown = [way for way, record in self.record.items() if record.unknown]
        if unknown:
            return min(unknown, key=lambda way: self.record[way].turns)
        quicker = self.record[True].pace < self.record[False].pace
        other = self.record[not quicker]
        return quicker if other.took > other.share * self.since else not quicker

    @contextmanager
    def timed(self, work: float) -> Iterator[Callable[[], bool]]:
        """Which way the block is to go on, to be asked again and again; it is so much `work`, in any one unit. An error
        in it is not timed."""
        way = self.way()
        mine, other = self.record[way], self.record[not way].pace
        start = time.perf_counter()
        yield lambda: way or time.perf_counter() - start > other * work
        seconds = time.perf_counter() - start
        mine.note(seconds, seconds / work, other)
        self.since = 0.0 if mine.pace >= other else self.since + seconds
