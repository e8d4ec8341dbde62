"""`Quicker`: it goes the way that takes less time, and notices when that is the other."""

from __future__ import annotations

import pytest

from stocnoise import quicker
from stocnoise.quicker import Quicker


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(quicker, "time", clock)
    return clock


def gone(ways: Quicker, clock: Clock, seconds: dict[bool, float], times: int, work: float = 1.0) -> list[bool]:
    """Which way so many blocks went that take `seconds` for each unit of work."""
    found = []
    for _ in range(times):
        with ways.timed(work) as way:
            found.append(way())
            clock.now += work * seconds[found[-1]]
    return found


@pytest.mark.parametrize("best", [False, True])
def test_it_tries_both_and_takes_the_quicker(clock, best):
    found = gone(Quicker(), clock, {best: 0.001, not best: 0.002}, 100)
    assert found[:4].count(True) == 2 and found[4:].count(not best) <= 3


def test_a_way_that_is_slower_by_far_is_left_at_once(clock):
    found = gone(Quicker(), clock, {False: 0.100, True: 0.007}, 400)
    assert found[4:].count(False) == 0


def test_the_first_turn_of_a_way_which_has_everything_to_fetch_does_not_count(clock):
    ways = Quicker()
    gone(ways, clock, {False: 0.1, True: 0.1}, 1)
    assert gone(ways, clock, {False: 0.001, True: 0.002}, 20)[3:].count(True) <= 2


def test_one_turn_that_was_held_up_decides_nothing(clock):
    ways, seconds = Quicker(), {False: 0.001, True: 0.002}
    gone(ways, clock, seconds, 20)
    for _ in range(10):
        gone(ways, clock, {False: 0.100, True: 0.100}, 1)
        assert gone(ways, clock, seconds, 10).count(True) <= 1


def test_after_two_such_turns_it_soon_goes_back(clock):
    ways, seconds = Quicker(), {False: 0.001, True: 0.002}
    gone(ways, clock, seconds, 20)
    gone(ways, clock, {False: 0.004, True: 0.004}, 2)
    assert gone(ways, clock, seconds, 40)[-20:].count(True) <= 1


def test_trying_the_other_way_costs_a_few_per_cent(clock):
    ways, seconds = Quicker(), {True: 0.001, False: 0.05}
    found = gone(ways, clock, seconds, 20_000)
    assert found.count(False) > 2 and 0.05 * found.count(False) < 0.05 * clock.now


def test_it_notices_a_change_either_way(clock):
    ways = Quicker()
    gone(ways, clock, {True: 0.001, False: 0.002}, 10)
    assert gone(ways, clock, {True: 0.100, False: 0.002}, 10).count(True) == 2  # the way it went became slow
    found = gone(ways, clock, {True: 0.001, False: 0.002}, 10_000)  # and later the other one quick again
    assert found[-1000:].count(True) > 950


def test_a_block_goes_over_once_it_takes_longer_than_the_other_way(clock):
    ways = Quicker()
    gone(ways, clock, {False: 0.001, True: 0.004}, 20, work=10.0)
    with ways.timed(10.0) as way:
        asked = []
        for _ in range(8):  # held up: each part takes as long as the whole should
            asked.append(way())
            clock.now += 0.011
    assert asked == [False] * 4 + [True] * 4


def test_from_the_way_that_one_goes_over_to_there_is_none(clock):
    ways = Quicker()
    gone(ways, clock, {False: 0.002, True: 0.001}, 20)
    with ways.timed(1.0) as way:
        clock.now += 100.0
        assert way()


def test_the_first_turn_of_the_way_that_may_be_slow_by_far_can_go_over_too(clock):
    ways = Quicker()
    assert gone(ways, clock, {True: 0.007}, 1) == [True]
    with ways.timed(1.0) as way:
        assert not way()
        clock.now += 0.060
        assert way()
    assert gone(ways, clock, {True: 0.007}, 100) == [True] * 100


def test_small_and_large_works_are_compared_by_their_pace(clock):
    ways, seconds = Quicker(), {True: 0.001, False: 0.002}
    gone(ways, clock, seconds, 1, work=100)
    gone(ways, clock, seconds, 3, work=1)
    assert gone(ways, clock, seconds, 50).count(False) <= 2


def test_what_is_raised_in_the_block_is_not_timed(clock):
    ways = Quicker()
    with pytest.raises(KeyError), ways.timed(1.0):
        raise KeyError
    assert not any(record.turns for record in ways.record.values())
