"""The budget for what strangers make the site write, with a clock that the test turns."""

from machines.boot.unknown_clients import UnknownClientLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def budget(clock: Clock) -> UnknownClientLimiter:
    """Two writes a second, four at once."""
    return UnknownClientLimiter(rate=2.0, burst=4.0, clock=clock)


def test_each_request_may_write_itself_while_the_budget_lasts() -> None:
    mine = budget(Clock())
    assert [mine.acquire("unknown_mac") for _ in range(4)] == [1, 1, 1, 1]


def test_an_empty_budget_allows_no_write() -> None:
    mine = budget(Clock())
    assert [mine.acquire("unknown_mac") for _ in range(7)] == [1, 1, 1, 1, 0, 0, 0]


def test_the_next_write_counts_those_that_could_not_be_made() -> None:
    clock = Clock()
    mine = budget(clock)
    for _ in range(7):
        mine.acquire("unknown_mac")
    clock.now += 0.5
    assert mine.acquire("unknown_mac") == 4


def test_the_budget_refills_with_time_to_no_more_than_its_burst() -> None:
    clock = Clock()
    mine = budget(clock)
    for _ in range(4):
        mine.acquire("unknown_mac")
    clock.now += 3600
    assert [mine.acquire("unknown_mac") for _ in range(5)] == [1, 1, 1, 1, 0]


def test_reasons_are_counted_apart() -> None:
    clock = Clock()
    mine = budget(clock)
    for _ in range(4):
        mine.acquire("unknown_mac")
    mine.acquire("bad_mac")
    mine.acquire("bad_mac")
    mine.acquire("unknown_mac")
    clock.now += 1
    assert (mine.flush("bad_mac"), mine.flush("unknown_mac")) == (2, 1)


def test_reasons_share_the_budget() -> None:
    mine = budget(Clock())
    assert [mine.acquire(reason) for reason in ("a", "b", "c", "d", "e")] == [1, 1, 1, 1, 0]


def test_collecting_what_nobody_waits_for_costs_nothing() -> None:
    mine = budget(Clock())
    assert [mine.flush("unknown_mac") for _ in range(10)] == [0] * 10
    assert mine.acquire("unknown_mac") == 1


def test_a_failed_write_is_counted_by_a_later_one() -> None:
    mine = budget(Clock())
    mine.restore("unknown_mac", mine.acquire("unknown_mac"))
    assert mine.acquire("unknown_mac") == 2


def test_what_waits_to_be_counted_is_named() -> None:
    mine = budget(Clock())
    mine.restore("database_error", 1)
    assert mine.unwritten() == ["database_error"]


def test_what_has_been_counted_waits_no_more() -> None:
    mine = budget(Clock())
    mine.restore("database_error", 1)
    mine.flush("database_error")
    assert mine.unwritten() == []
