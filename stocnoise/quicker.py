"""The quicker of two ways to the same result, found out in passing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Of the time, what trying the slower way again may take, lest a change of circumstances goes unseen.
_SHARE = 0.03


class Quicker:
    """Two ways, False and True. After two turns of each, the first with new memory and new code, a block takes the one
    that was quicker the last time, for as much work; the other is tried again when what it took then is no more than a
    `_SHARE` of the time since."""

    def __init__(self) -> None:
        self.pace: dict[bool, float] = {}
        """Seconds for each unit of work, the last time."""
        self.took: dict[bool, float] = {}
        """Seconds, the last time."""
        self.since = 0.0
        """Seconds spent the quicker way since the other was taken."""
        self.turns = 0

    def way(self) -> bool:
        if self.turns < 4:
            return self.turns % 2 == 1
        quicker = self.pace[True] < self.pace[False]
        return quicker if self.took[not quicker] > _SHARE * self.since else not quicker

    @contextmanager
    def timed(self, work: float) -> Iterator[bool]:
        """The way to take in the block, which is so much `work`, in any one unit; an error in it is not timed."""
        way = self.way()
        start = time.perf_counter()
        yield way
        seconds = time.perf_counter() - start
        self.pace[way], self.took[way] = seconds / work, seconds
        self.turns += 1
        slower = self.pace[way] >= self.pace.get(not way, 0.0)
        self.since = 0.0 if slower else self.since + seconds
