"""The quicker of two ways to the same result, found out in passing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
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
        return median_high(self.paces) if self.paces else 0.0

    @property
    def share(self) -> float:
        """Of the time, what trying it again may take: all, if it was slower once."""
        return _SHARE ** (max(self.losses - 1, 0) / (_LOSSES - 1))


class Quicker:
    """Two ways, False and True. After two turns of each, the first with new memory and new code, a block takes the one
    that was quicker lately, for as much work; the other is tried again when what it took the last time is no more than
    its share of the time since."""

    def __init__(self) -> None:
        self.record = {False: _Record(), True: _Record()}
        self.since = 0.0
        """Seconds spent the quicker way since the other was taken."""
        self.turns = 0

    def way(self) -> bool:
        if self.turns < 4:
            return self.turns % 2 == 1
        quicker = self.record[True].pace < self.record[False].pace
        other = self.record[not quicker]
        return quicker if other.took > other.share * self.since else not quicker

    @contextmanager
    def timed(self, work: float) -> Iterator[bool]:
        """The way to take in the block, which is so much `work`, in any one unit; an error in it is not timed."""
        way = self.way()
        start = time.perf_counter()
        yield way
        seconds = time.perf_counter() - start
        self.turns += 1
        if self.turns <= 2:
            return
        mine, other = self.record[way], self.record[not way].pace
        mine.took, pace = seconds, seconds / work
        mine.paces.append(pace)
        if pace >= other:
            mine.losses = min(mine.losses + (_LOSSES if pace > _FAR * other else 1), _LOSSES)
        else:
            mine.losses = max(mine.losses - 1, 0)
        self.since = 0.0 if mine.pace >= other else self.since + seconds
