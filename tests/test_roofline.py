"""The roof of the map and of the mixing: identities, exact passes, and what is not known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import Counter as Calls

from andersonn_core import IDR, Anderson, KnobError, Picard, SolveSpec, memory, solve
from andersonn_core.kernels import compiled_rows, loops
from andersonn_core.machine import measure_machine
from andersonn_core.memory import history_bytes, memory_line, solve_bytes
from andersonn_core.problems import Chandrasekhar, Poisson
from andersonn_core.roofline import Roof, mixing_work, rooflines
from andersonn_core.words import bytes_text, percent_text, rate_text
from andersonn_core.work import Counter, Work

# what a step moves


def steady_steps(method, batch, n, dtype, steps):
    """What `steps` steps with a full window really read, write and compute, on average."""
    slopes = torch.linspace(0.1, 0.9, n, dtype=dtype)
    z = torch.zeros(batch, n, dtype=dtype)
    state, found = method.init(z), []
    for _ in range(3 * steps + 3):
        f_z = torch.addcmul(torch.ones_like(z), z, slopes)
        with Counter() as counter:
            state.measure(z, f_z)
            z = method.step(state, z, f_z)
        found.append((counter.flops, counter.bytes, counter.footprint))
    return np.mean(found[-steps:], axis=0)


FORMS = pytest.mark.parametrize("form", ["gram", "residuals"])
MIXINGS = pytest.mark.parametrize("mixing", [1.0, 0.6])


@pytest.mark.parametrize("shape", [(1, 40_000), (3, 10_000)], ids=str)
@MIXINGS
@FORMS
def test_the_formula_of_a_step_counts_what_torch_does_on_several_threads(form, mixing, shape):
    torch.set_num_threads(2)
    m = 4
    method = Anderson(window=m, restart="never", mixing=mixing, least_squares=form)
    steps = m if form == "gram" else m + 1  # once round the ring
    counted = steady_steps(method, *shape, torch.float32, steps)
    work = mixing_work(method, *shape, torch.float32)
    np.testing.assert_allclose((work.flops, work.bytes, work.footprint), counted, rtol=0.005)


class Tally:
    """Flops, words and distinct words of loops that run in Python, on arrays that tell."""

    def __init__(self):
        self.flops, self.words, self.distinct = 0, 0, set()

    def run(self, loop):
        """The loop, with every float32 array among its arguments watched."""

        def watched(*arguments):
            self.read, self.written = set(), set()
            loop.py_func(*map(self.watch, arguments))
            self.words += len(self.read) + len(self.written)
            self.distinct |= self.read | self.written

        return watched

    def watch(self, value):
        if getattr(value, "dtype", None) != np.float32 or not value.shape:
            return value
        array = value.view(Watched)
        array.tally = self
        return array


class Watched(np.ndarray):
    def __array_finalize__(self, parent):
        self.tally = getattr(parent, "tally", None)

    def address(self, key):
        return self.__array_interface__["data"][0] + np.dot(np.atleast_1d(key), self.strides)

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if isinstance(value, Watched) or self.tally is None:
            return value
        if self.address(key) not in self.tally.written:  # otherwise it comes from the cache
            self.tally.read.add(self.address(key))
        return Number(value, self.tally)

    def __setitem__(self, key, value):
        super().__setitem__(key, float(value))
        if self.tally is not None:
            keys = range(*key.indices(len(self))) if isinstance(key, slice) else [key]
            self.tally.written.update(map(self.address, keys))


class Number:
    """A float that counts what is done with it."""

    __array_ufunc__ = None

    def __init__(self, value, tally):
        self.value, self.tally = float(value), tally

    def __float__(self):
        return self.value

    def _do(self, value):
        self.tally.flops += 1
        return Number(value, self.tally)

    def __add__(self, other):
        return self._do(self.value + float(other))

    def __sub__(self, other):
        return self._do(self.value - float(other))

    def __mul__(self, other):
        return self._do(self.value * float(other))

    def __rsub__(self, other):
        return self._do(float(other) - self.value)

    __radd__, __rmul__ = __add__, __mul__


@pytest.mark.parametrize("m", [3, 4])
@MIXINGS
@FORMS
def test_the_formula_of_a_step_counts_what_the_loops_do(form, mixing, m, monkeypatch):
    """The very loops that are compiled, run by Python on arrays that note what is touched."""
    method, shape = Anderson(window=m, restart="never", mixing=mixing, least_squares=form), (2, 40)
    z, tally, footprints = torch.zeros(shape), Tally(), []
    state = method.init(z)
    steps = m if form == "gram" else m + 1  # once round the ring
    for now in range(2 * steps + 2):
        if now == steps + 2:
            names = ("residual", "enter", "append", "mix")
            python = {name: tally.run(getattr(loops, name)) for name in names}
            for shared in ("gap", "inner", "differences", "add"):
                monkeypatch.setattr(loops, shared, getattr(loops, shared).py_func)
            monkeypatch.setattr(compiled_rows, "loops", SimpleNamespace(**vars(loops) | python))
        f_z = torch.addcmul(torch.ones_like(z), z, torch.linspace(0.1, 0.9, shape[1]))
        tally.distinct.clear()
        state.measure(z, f_z)
        z = method.step(state, z, f_z)
        footprints.append(4 * len(tally.distinct))
    work = mixing_work(method, *shape, torch.float32)
    assert work.bytes == 4 * tally.words / steps
    assert work.footprint == np.mean(footprints[-steps:])
    assert work.flops == pytest.approx(tally.flops / steps, rel=0.02)  # sums of blocks, too


@pytest.mark.parametrize("method", [Picard(), Picard(mixing=0.5), Anderson(window=0, mixing=0.5)])
def test_the_formula_of_a_plain_step_counts_what_torch_does_on_several_threads(method):
    torch.set_num_threads(2)
    counted = steady_steps(method, 2, 10_000, torch.float64, 2)
    work = mixing_work(method, 2, 10_000, torch.float64)
    np.testing.assert_allclose((work.flops, work.bytes, work.footprint), counted, rtol=0.005)


@pytest.mark.parametrize("m", [1, 5, 10])
def test_the_words_of_an_undamped_step_are_those_of_the_docstring(m):
    words = {
        form: mixing_work(Anderson(window=m, least_squares=form), 2, 1000, torch.float32).bytes
        for form in ("gram", "residuals")
    }
    assert words["gram"] == 8000 * (2 * m + 8)
    assert words["residuals"] == 8000 * (2 * m + 6)


@pytest.mark.parametrize("m", [1, 5, 10])
def test_the_words_of_a_step_by_torch_s_calls_are_those_of_the_docstring(m):
    torch.set_num_threads(2)
    words = {
        form: mixing_work(Anderson(window=m, least_squares=form), 2, 10_000, torch.float32).bytes
        for form in ("gram", "residuals")
    }
    assert words["gram"] == round(80_000 * (3 * m + 20 + 1 / m))
    assert words["residuals"] == 80_000 * (2 * m + 11)


def test_fewer_columns_move_less_and_a_window_is_at_most_the_state():
    method = Anderson(window=10)
    some, full = (mixing_work(method, 1, 100, torch.float32, depth) for depth in (4.5, None))
    assert some.bytes < full.bytes == mixing_work(method, 1, 100, torch.float32, 10).bytes
    small = mixing_work(method, 1, 3, torch.float32)
    assert small == mixing_work(Anderson(window=3), 1, 3, torch.float32)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (IDR(), "a formula for"),
        (Anderson(least_squares="qr"), "the QR factorization"),
        (Anderson(mixing="auto"), "a mixing that changes"),
    ],
)
def test_a_step_without_a_formula_is_said_to_have_none(method, words):
    work = mixing_work(method, 1, 1000, torch.float32)
    assert work.bytes is None and words in work.unseen[0]


# under the roof


def roof(flops=100, moved=50, seconds=10.0, calls=0.0, place="memory", unseen=()):
    """Peak 40 flop/s, bandwidth 10 B/s: the ridge is at 4 flops per byte."""
    work = Work(flops, moved, moved, 3, unseen)
    return Roof("mixing", work, seconds, 50, place, 10.0, 40.0, calls)


@pytest.mark.parametrize(("flops", "moved"), [(100, 50), (1000, 50), (200, 50), (7, 3)])
def test_the_fraction_is_attained_over_attainable(flops, moved):
    under = roof(flops, moved)
    assert under.attainable == min(40.0, flops / moved * 10.0)
    assert under.attained == flops / 10.0
    assert under.fraction == pytest.approx(under.attained / under.attainable)


def test_a_copy_has_a_fraction_though_it_computes_nothing():
    under = roof(flops=0)
    assert (under.attained, under.attainable, under.fraction) == (0.0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("under", "limit", "sentence"),
    [
        (roof(moved=61), "memory",
         "The mixing runs at 61 % of what this machine's memory allows, 1e-08 GB/s."),
        (roof(moved=61, place="L2 cache"), "memory",
         "The mixing runs at 61 % of what the L2 cache allows, 1e-08 GB/s."),
        (roof(flops=320), "arithmetic",
         "The mixing runs at 80 % of a matrix product's speed here, 4e-08 Gflop/s."),
        (roof(flops=0, moved=1, seconds=10, calls=7.5), "calls",
         "The mixing is bound by calls (75 % of its time), not by memory (1 %) or arithmetic "
         "(0 %)."),
        (roof(flops=4, moved=1, calls=1.0), None,
         "Most of the mixing's time is neither memory (1 %) nor arithmetic (1 %) nor calls "
         "(10 %)."),
        (replace(roof(flops=4, moved=1), what="map"), None,
         "Most of the map's time is neither memory (1 %) nor arithmetic (1 %) nor calls (0 %): "
         "left are fresh memory, exp and its like, scattered reads, Python."),
        (roof(seconds=0.0), None, "The clock is too coarse to see the mixing."),
        (roof(None, None, unseen=("NumPy",)), None, "The work of the mixing is not known: NumPy."),
    ],
    ids=["memory", "cache", "arithmetic", "calls", "nothing", "map", "coarse", "unknown"],
)  # fmt: skip
def test_the_sentence_names_what_limits(under, limit, sentence):
    assert under.limit == limit
    assert under.sentence == sentence


def test_what_is_not_known_is_nan():
    under = roof(None, None, unseen=("NumPy",))
    assert all(math.isnan(value) for value in (under.attained, under.attainable, under.fraction))
    assert math.isnan(roof(None, 50, unseen=("_fft_c2c",)).fraction)


def test_map_and_mixing_of_a_solve_share_one_working_set():
    problem = Poisson(size=16).build()
    result = solve(problem.f, problem.z0, Anderson(window=3), rtol=1e-4)
    machine = measure_machine()
    mapped, mixing = rooflines(problem.f, problem.z0, result, machine)
    assert mapped.working_set == mixing.working_set
    assert mapped.working_set == mapped.work.footprint + mixing.work.footprint
    assert mixing.work == mixing_work(Anderson(window=3), 1, 256, torch.float32)
    for under in (mapped, mixing):
        assert under.bandwidth == machine.bandwidth(under.working_set)
        assert under.peak == machine.peak(torch.float32)
        assert under.seconds > 0 and under.calls_seconds > 0 and under.fraction > 0
        assert under.what in under.sentence


def test_a_bfloat16_state_is_mixed_in_float32():
    problem = Poisson(size=16, dtype="bfloat16").build()
    result = solve(problem.f, problem.z0, Picard(), rtol=1e-2, max_iter=4)
    mapped, mixing = rooflines(problem.f, problem.z0, result)
    assert mixing.work.bytes == 5 * 256 * 4
    assert mapped.peak == measure_machine().peak(torch.bfloat16)


def test_the_steps_with_the_fullest_window_are_those_that_count():
    z0 = torch.zeros(2, 50)
    slopes = torch.linspace(0, 0.9, 50)
    result = solve(lambda z: z * slopes + 1, z0, Anderson(window=3), rtol=0.0, max_iter=12)
    history = result.history
    history.method_seconds = torch.where(history.depth.amax(1) == 3, 2.0, 1.0)
    history.map_seconds = torch.full_like(history.map_seconds, 0.5)
    mapped, mixing = rooflines(lambda z: z * slopes + 1, z0, result)
    assert (mapped.seconds, mixing.seconds) == (0.5, 2.0)
    assert mixing.work.bytes == mixing_work(Anderson(window=3), 2, 50, torch.float32).bytes


def test_a_numpy_map_has_no_place_under_the_roof_and_the_mixing_has():
    z0 = np.zeros((2, 300))
    mapped, mixing = rooflines(np.cos, z0, solve(np.cos, z0, Anderson(window=2)))
    assert mapped.sentence == "The work of the map is not known: NumPy."
    assert mixing.fraction > 0


def test_the_map_is_evaluated_once_more_and_not_oftener():
    counter, z0 = Calls(), torch.zeros(2, 300)
    result = solve(counter, z0)
    counter.calls = 0
    rooflines(counter, z0, result)
    assert counter.calls == 1


def test_a_solve_that_made_no_step_is_refused():
    z0 = torch.ones(2, 5)
    with pytest.raises(ValueError, match="ended at its first evaluation"):
        rooflines(torch.clone, z0, solve(torch.clone, z0))


@pytest.mark.parametrize("elsewhere", [{"device": "NVIDIA H200"}, {"threads": 2}], ids=str)
def test_a_solve_from_elsewhere_is_refused(elsewhere):
    z0 = torch.zeros(2, 5)
    result = solve(torch.cos, z0)
    result.card = replace(result.card, **elsewhere)
    with pytest.raises(ValueError, match="measure and solve in the same place"):
        rooflines(torch.cos, z0, result)


def test_a_method_of_one_s_own_is_refused():
    class Own(Picard):
        name = "own"

    z0 = torch.zeros(2, 5)
    with pytest.raises(ValueError, match="a roofline is for the methods picard, anderson"):
        rooflines(torch.cos, z0, solve(torch.cos, z0, Own()))


def test_a_compacted_solve_is_refused():
    stars = Chandrasekhar(size=20, batch_size=8)
    spec = SolveSpec(problem=stars, method=Picard(), compact=True)
    problem, result = stars.build(), spec.run()
    assert result.diagnostics["compactions"] > 0
    with pytest.raises(ValueError, match="compact=False"):
        rooflines(problem.f, problem.z0, result)


# what fits


@pytest.mark.parametrize("method", [Picard(), Anderson(window=3), Anderson(window=50)])
def test_the_planner_and_the_refusal_are_one_formula(method, monkeypatch):
    batch, n = 4, 1000
    needed = solve_bytes(method, batch, n, torch.float32)
    z0 = torch.zeros(batch, n)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed)
    solve(torch.cos, z0, method, max_iter=2)
    assert "refused" not in memory_line(method, batch, n, torch.float32, {})
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed - 1)
    with pytest.raises(KnobError, match="memory"):
        solve(torch.cos, z0, method, max_iter=2)
    assert "refused" in memory_line(method, batch, n, torch.float32, {})


def test_the_history_of_anderson_grows_by_two_vectors_a_difference():
    one, two = (history_bytes(Anderson(window=m), 3, 100, torch.float64) for m in (5, 6))
    assert two - one == 2 * 3 * 100 * 8
    limit = history_bytes(Anderson(window=100), 3, 7, torch.float64)
    assert limit == history_bytes(Anderson(window=7), 3, 7, torch.float64)


@pytest.mark.parametrize(
    ("method", "caches", "line"),
    [
        (Anderson(window=10), {}, "Window 10 at this size: 121 KiB."),
        (Anderson(window=10), {"L1": 1024, "L2": 2**20},
         "Window 10 at this size: 121 KiB; its history fits into the 1 MiB L2 cache."),
        (Anderson(window=10), {"L1": 1024, "L2": 2048},
         "Window 10 at this size: 121 KiB; its history does not fit into the 2 KiB L2 cache."),
        (Picard(), {"L1": 4000},
         "Forward iteration at this size: 27.3 KiB; its history fits into the 3.91 KiB L1 cache."),
    ],
    ids=["unknown", "fits", "beyond", "picard"],
)  # fmt: skip
def test_the_line_says_how_much_and_where_it_lies(method, caches, line, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    assert memory_line(method, 1, 1000, torch.float32, caches) == line


def test_amounts_and_rates_are_said_with_three_digits_and_a_unit():
    assert [bytes_text(number) for number in (0, 512, 1024, 2**15, 2.5e9, 2**60)] == [
        "0 B", "512 B", "1 KiB", "32 KiB", "2.33 GiB", "1048576 TiB",
    ]  # fmt: skip
    assert rate_text(3.14159e10, "B/s") == "31.4 GB/s"
    assert rate_text(math.nan, "B/s") == "unknown"
    assert [percent_text(part) for part in (0.614, 1.2, 0.0031, 0.0996, math.nan)] == [
        "61 %", "120 %", "0.31 %", "10 %", "unknown",
    ]  # fmt: skip
