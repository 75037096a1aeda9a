"""How often a page is updated: rates, urgency, shares; on a clock of the test's own."""

import random
import threading
from collections.abc import Callable

import numpy as np
import pytest

from lab.pump import INTERVAL, Pump, Shares


class Simulation:
    """A pump with a clock of its own: time passes only when the test says so."""

    def __init__(self, shares: Shares | None = None) -> None:
        self.now, self.pending, self.timers, self.emitted = 0.0, [], [], []
        self.something_new = True
        shares = Shares() if shares is None else shares
        self.pump = Pump(self.emit, self.pending.append, lambda: self.now, self.later, shares)

    def emit(self) -> bool:
        if self.something_new:
            self.emitted.append(self.now)
        return self.something_new

    def later(self, delay: float, function: Callable[[], None]) -> None:
        self.timers.append((self.now + delay, function))

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
            self.run()
        self.now = end

    def run(self) -> None:
        assert len(self.pending) <= 1
        while self.pending:
            self.pending.pop()()


@pytest.mark.parametrize("seed", range(8))
def test_the_pump_never_emits_more_than_30_times_in_a_second_and_forgets_nothing(seed):
    draw, made = random.Random(seed), Simulation()
    last_request = 0.0
    for _ in range(4000):
        made.advance(draw.choice([0.0002, 0.001, 0.004, 0.03]))
        made.pump.request(urgent=draw.random() < 0.1)
        last_request = made.now
        assert len(made.pending) <= 1
        if draw.random() < 0.9:
            made.run()
    made.run()
    made.advance(3 * INTERVAL)
    assert made.emitted[-1] >= last_request
    times = np.array(made.emitted)
    assert all(((times >= start) & (times < start + 1.0)).sum() <= 30 for start in times)
    assert len(times) > 25 * times[-1]


def test_the_first_point_goes_out_at_once_and_the_next_waits_the_longer():
    made = Simulation()
    made.now = 10.0
    made.pump.request()
    made.run()
    made.now += 0.001
    made.pump.request(urgent=True)
    made.run()
    made.pump.request()
    made.run()
    assert made.emitted == [10.0, 10.001]
    made.advance(1.0)
    assert len(made.emitted) == 3 and made.emitted[-1] == pytest.approx(10.0 + 1.5 * INTERVAL)


def test_a_held_request_waits_unless_an_urgent_one_takes_it_along():
    made = Simulation()
    made.pump.request(hold=0.02)
    made.run()
    assert made.emitted == []
    made.advance(0.1)
    assert made.emitted == [0.02]
    made.pump.request(hold=0.02)
    made.pump.request(urgent=True)
    made.run()
    made.advance(1.0)
    assert made.emitted == [0.02, 0.1]


def test_urgency_is_kept_while_it_waits_and_an_earlier_timer_replaces_a_later_one():
    made = Simulation()
    for _ in range(2):
        made.pump.request(urgent=True)
        made.run()
    made.advance(0.001)
    made.pump.request()
    made.pump.request(urgent=True)
    made.advance(1.0)
    assert made.emitted == [0.0, 0.0, pytest.approx(INTERVAL)]


def test_pages_that_are_updated_at_once_share_the_updates():
    shares = Shares()
    pair = [Simulation(shares), Simulation(shares)]
    for _ in range(2000):
        for made in pair:
            made.advance(0.001)
            made.pump.request()
            made.run()
    for made in pair:
        assert 12 <= sum(0.9 < time <= 1.9 for time in made.emitted) <= 16
    alone = Simulation(shares)
    alone.now = 3.0
    for _ in range(1000):
        alone.advance(0.001)
        alone.pump.request()
        alone.run()
    assert len(alone.emitted) > 25


def test_an_update_need_not_wait_for_one_that_had_nothing_to_tell():
    made = Simulation()
    made.now, made.something_new = 10.0, False
    made.pump.request()
    made.run()
    made.something_new = True
    made.now += 0.001
    made.pump.request()
    made.run()
    assert made.emitted == [made.now]


def test_an_idle_pump_emits_nothing():
    made = Simulation()
    made.pump.request()
    made.run()
    made.advance(5.0)
    assert len(made.emitted) == 1


class Interrupted:
    """A lock after whose first release another thread gets its turn."""

    def __init__(self, other: Callable[[], None]) -> None:
        self.lock, self.others = threading.RLock(), [other]

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if self.others:
            self.others.pop()()


def test_a_request_that_overtakes_another_does_not_lose_its_timer():
    made = Simulation()
    made.pump.request()
    made.run()
    made.pump._lock = Interrupted(lambda: made.pump.request(urgent=True))
    made.pump.request()
    made.run()
    made.pump.request()
    made.advance(3 * INTERVAL)
    assert made.emitted[:2] == [0.0, 0.0] and len(made.emitted) == 3
