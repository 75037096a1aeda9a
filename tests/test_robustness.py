"""The robustness switches: each one's trace is, step by step, that of its rule written plainly."""

import math

import numpy as np
import pytest
import torch
from cases import iterates, tanh_layer
from plain import as_numpy_map, plain_anderson

from andersonn_core import Anderson, Event, KnobError, Picard, SolveSpec, solve
from andersonn_core.problems import Affine, Bratu, Chandrasekhar, Tanh

BACK_ENDS = ("gram", "qr", "residuals")
NUM = 40


def bratu():
    return Bratu(size=8, batch_size=1, dtype="float64").build()


def stretched():
    """A linear map whose eigenvalues lie from -3 to 0.9."""
    slope = torch.linspace(-3, 0.9, 30, dtype=torch.float64)
    offset = torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (lambda z: slope * z + offset), torch.zeros(1, 30, dtype=torch.float64)


def compare(method, problem, window, restart="full", mixing=1.0, num=NUM, close=1e-6, **switches):
    """Ours against the plain implementation with the same switch; returns both traces."""
    f, z0 = problem if isinstance(problem, tuple) else (problem.f, problem.z0)
    ours, result = iterates(f, z0, method, rtol=0.0, max_iter=num)
    plain = plain_anderson(
        as_numpy_map(f, z0.shape[1:]),
        z0[0].flatten().numpy(),
        window,
        restart,
        mixing,
        num,
        **switches,
    )
    theirs = np.stack(plain.points)
    assert result.history.depth[:-1, 0].tolist() == plain.depths[:-1]
    assert np.allclose(result.history.mixing[:-1, 0], plain.mixings[:-1], rtol=1e-6)
    off = np.abs(ours[:, 0].flatten(1).numpy() - theirs).max()
    assert off <= close * np.abs(theirs).max()
    return result, plain


def flagged(result, event):
    """The evaluations of the only sample at which an event was seen."""
    rows = (result.history.event[:, 0] & int(event)) != 0
    return (rows.nonzero()[:, 0] + 1).tolist()


# condition cap and column filtering


def newest_within(limit):
    """The newest columns, as many as keep the condition of their scaled Gram matrix at most so."""

    def take(dg):
        columns = list(range(dg.shape[1]))
        unit = dg / np.linalg.norm(dg, axis=0)
        while len(columns) > 1 and np.linalg.cond(unit[:, columns]) ** 2 > limit:
            columns = columns[1:]
        return columns

    return take


def not_aligned(sine):
    """Columns whose distance from the span of newer ones is at least this part of their length."""

    def take(dg):
        taken = []
        for column in reversed(range(dg.shape[1])):
            newer, this = dg[:, sorted(taken)], dg[:, column]
            near = newer @ np.linalg.lstsq(newer, this, rcond=None)[0]
            if np.linalg.norm(this - near) >= sine * np.linalg.norm(this):
                taken.append(column)
        return sorted(taken)

    return take


@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("least_squares", ["gram", "qr"])
@pytest.mark.parametrize("limit", [1.0, 5.0, 30.0])
def test_a_condition_cap_uses_the_newest_columns_that_keep_it(limit, least_squares, restart):
    method = Anderson(
        window=6, max_condition=limit, least_squares=least_squares, restart=restart, fallback=False
    )
    result, plain = compare(
        method, bratu(), 6, restart, take=newest_within(limit), num=25, close=1e-5
    )
    assert result.diagnostics["filtered_steps"] > 0
    assert float(result.history.condition.nan_to_num(nan=1.0).max()) <= limit * (1 + 1e-9)
    assert limit > 1 or max(plain.depths) == 1


@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("least_squares", ["gram", "qr"])
def test_filtering_leaves_out_columns_that_newer_ones_nearly_span(least_squares, restart):
    method = Anderson(
        window=6, filtering=0.6, least_squares=least_squares, restart=restart, fallback=False
    )
    result, _ = compare(method, bratu(), 6, restart, take=not_aligned(0.6), num=25, close=1e-5)
    assert result.diagnostics["filtered_steps"] > 0


@pytest.mark.parametrize("knobs", [{"max_condition": 1e3}, {"filtering": 0.1}], ids=str)
def test_the_residual_form_filters_the_differences_from_the_newest_residual(knobs):
    problem = bratu()
    method = Anderson(window=6, least_squares="residuals", restart="never", **knobs)
    result = solve(problem.f, problem.z0, method, rtol=1e-9, max_iter=500)
    assert result.diagnostics["filtered_steps"] > 0 and bool(result.converged.all())
    assert float(result.history.condition.nan_to_num(nan=1.0).max()) <= 1e3 or "filtering" in knobs


def test_switches_that_never_act_change_no_bit():
    problem = tanh_layer()
    idle = Anderson(max_condition=1e300, max_growth=1e300, max_weights=1e300, filtering=0.0)
    for least_squares in BACK_ENDS:
        plain, _ = iterates(problem.f, problem.z0, Anderson(least_squares=least_squares), rtol=1e-9)
        ours, result = iterates(
            problem.f, problem.z0, idle.replace(least_squares=least_squares), rtol=1e-9
        )
        assert torch.equal(plain, ours) and result.notes == ()


# the safeguard


@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("least_squares", ["gram", "qr"])
def test_a_step_after_which_the_residual_grew_too_much_is_taken_back(least_squares, restart):
    problem = Tanh(size=24, gain=1.6, batch_size=1, dtype="float64").build()
    method = Anderson(
        window=4, max_growth=1.0, least_squares=least_squares, restart=restart, fallback=False
    )
    result, plain = compare(method, problem, 4, restart, max_growth=1.0)
    assert len(plain.rejected) >= 2 and flagged(result, Event.REJECT) == plain.rejected
    assert result.diagnostics["rejects"] == len(plain.rejected)
    (note,) = result.notes
    assert note.startswith(f"{len(plain.rejected)} steps of 1 of 1 samples were taken back")
    assert "max_growth" in note and "lower the window" in note


@pytest.mark.parametrize("least_squares", BACK_ENDS)
def test_with_every_step_refused_forward_iteration_remains(least_squares):
    problem = tanh_layer()
    method = Anderson(max_weights=1e-300, least_squares=least_squares)
    ours, result = iterates(problem.f, problem.z0, method, rtol=1e-9)
    forward, _ = iterates(problem.f, problem.z0, Picard(), rtol=1e-9)
    assert torch.allclose(ours, forward, rtol=1e-12, atol=1e-14)
    assert result.diagnostics["heavy_weights"] > 0 and "max_weights" in result.notes[0]


@pytest.mark.parametrize("least_squares", ["gram", "qr"])
def test_too_large_weights_make_a_plain_step_and_empty_the_history(least_squares):
    problem = Tanh(size=24, gain=1.3, batch_size=1, dtype="float64").build()
    method = Anderson(window=5, max_weights=0.7, least_squares=least_squares, fallback=False)
    result, plain = compare(method, problem, 5, max_weights=0.7)
    assert len(plain.rejected) >= 2 and flagged(result, Event.HEAVY) == plain.rejected
    assert float(result.history.weight_norm.nan_to_num(nan=0.0).max()) <= 0.7


@pytest.mark.parametrize("least_squares", BACK_ENDS)
def test_the_safeguard_finds_the_center_of_a_map_that_leads_steps_astray(least_squares):
    problem = Tanh(size=24, gain=1.6, batch_size=4, dtype="float64").build()
    method = Anderson(window=8, max_growth=1.5, max_weights=50.0, least_squares=least_squares)
    result = solve(problem.f, problem.z0, method, rtol=1e-8, max_iter=500)
    assert bool(result.converged.all())


def test_refusals_are_counted_over_the_whole_batch_though_it_is_compacted():
    problem = Tanh(size=24, gain=1.6, batch_size=6, dtype="float64").build()
    method = Anderson(window=4, max_growth=1.05, fallback=False)
    results = [
        solve(problem.f, problem.z0, method, rtol=1e-6, max_iter=300, compact=compact)
        for compact in (False, True)
    ]
    assert results[1].diagnostics["compactions"] > 0
    for result in results:
        assert result.notes[0].startswith(f"{result.diagnostics['rejects']} steps of ")
    assert results[0].notes == results[1].notes


# callbacks


def test_callbacks_see_gain_and_weights_and_decide_window_and_mixing():
    seen = []

    def window(sight):
        seen.append(sight)
        return 2 if sight.evaluation % 3 else 4

    def mixing(sight):
        seen.append(sight)
        return 1 - 0.5 * sight.gain

    method = Anderson(window=5, restart="never", fallback=False).steered(
        window=window, mixing=mixing
    )
    result, plain = compare(
        method, bratu(), 5, "never", num=20,
        limit=lambda look: 2 if look.evaluation % 3 else 4,
        mix=lambda look: 1 - 0.5 * look.gain,
    )  # fmt: skip
    history = result.history
    for sight in seen[1::2]:  # what the mixing's callback saw is what the history says
        row = sight.evaluation - 1
        assert sight.depth == history.depth[row] and sight.gamma.shape == (1, 5)
        assert math.isclose(sight.weight_norm[0], float(history.weight_norm[row]), abs_tol=1e-12)
        assert math.isclose(sight.gain[0], float(history.gain[row]), rel_tol=1e-9, abs_tol=1e-9)
    assert [sight.evaluation for sight in seen[::2]] == list(range(1, 20))


def test_on_an_affine_map_the_best_mixing_is_the_best():
    f, z0 = stretched()
    points, offers = [], []

    def mixing(sight):
        offers.append(sight.best_mixing[0])
        return 0.7

    solve(
        f, z0, Anderson(window=3).steered(mixing=mixing), rtol=0.0, max_iter=12,
        on_step=lambda step: points.append(step.z()),
    )  # fmt: skip
    matrix = torch.diag(f(torch.ones(1, 30, dtype=torch.float64))[0] - f(z0)[0])
    for k in range(1, 11):
        mixed = points[k][0]  # g' = r - mixing (I - J) r, so r = (I - .7 (I - J))^-1 g'
        g = f(mixed[None])[0] - mixed
        identity = torch.eye(30, dtype=torch.float64)
        r = torch.linalg.solve(identity - 0.7 * (identity - matrix), g)
        w = r - matrix @ r
        assert math.isclose(offers[k], float(r @ w / (w @ w)), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("what", "answer"),
    [("window", 2.5), ("window", 9), ("window", -1), ("mixing", 0.0), ("mixing", math.nan),
     ("mixing", 3.0), ("mixing", [0.5, 0.5]), ("mixing", "much"), ("window", None)],
)  # fmt: skip
def test_an_impossible_answer_of_a_callback_is_an_error_that_says_so(what, answer):
    problem = tanh_layer()

    def stubborn(sight):
        return answer

    with pytest.raises(ValueError, match=rf"the {what} callback .*stubborn returned .* give one"):
        solve(problem.f, problem.z0, Anderson().steered(**{what: stubborn}))


def test_a_callback_that_is_none_is_refused_before_any_evaluation():
    with pytest.raises(KnobError, match="mixing = 0.5 is not callable"):
        Anderson().steered(mixing=0.5)


def test_a_steered_method_keeps_its_callbacks_and_is_no_rerunnable_spec():
    steered = Anderson().steered(mixing=lambda sight: 0.5)
    wider = steered.replace(window=7)
    problem = tanh_layer()
    result = solve(problem.f, problem.z0, wider)
    assert wider.window == 7 and set(result.history.mixing[:-1].flatten().tolist()) == {0.5}
    assert steered.spec_id != Anderson().spec_id
    assert "lambda" in result.card.spec["method"]["steered_by"]["mixing"]
    with pytest.raises(KnobError, match="steered_by"):
        SolveSpec.from_dict(SolveSpec(problem=Affine(), method=steered).to_dict())


# window="auto" and mixing="auto"


class PlainAutoWindow:
    """Half the window after a residual three times the promised one, else one more."""

    def __init__(self):
        self.limit = 10

    def __call__(self, look):
        if look.growth > 3 * look.gain and look.growth > 0.5 and look.depth > 2:
            self.limit = max(look.depth // 2, 2)
        elif look.depth:
            self.limit = min(self.limit + 1, 10)
        return self.limit


@pytest.mark.parametrize("restart", ["full", "never"])
def test_the_automatic_window_halves_where_a_step_breaks_its_promise(restart):
    problem = Chandrasekhar(albedo=0.999999, batch_size=1, dtype="float64").build()
    method = Anderson(window="auto", restart=restart, fallback=False)
    result, _ = compare(method, problem, 10, restart, num=12, close=1e-3, limit=PlainAutoWindow())
    assert result.notes and all("window" in note and "promised" in note for note in result.notes)


def test_the_automatic_window_never_takes_more_than_the_memory_says():
    method = Anderson(window="auto")
    assert method.slots(1000) == 10 and method.memory_vectors(1000) == Anderson(
        window=10
    ).memory_vectors(1000)


class PlainAutoMixing:
    """Sixteen of the last twenty steps must ask for another mixing, by a factor of 1.5."""

    def __init__(self):
        self.level, self.votes = 1.0, []

    def __call__(self, look):
        self.votes = [np.log(np.clip(look.best_mixing, 0.05, 4.0)), *self.votes][:20]
        relative = np.array(self.votes) - np.log(self.level)
        if max((relative < -np.log(1.5)).sum(), (relative > np.log(1.5)).sum()) >= 16:
            self.level = float(np.clip(np.exp(np.nanmedian(self.votes)), 0.1, 2.0))
            self.votes = []
        return self.level


def test_the_automatic_mixing_follows_what_nearly_all_steps_ask_for():
    method = Anderson(window=3, mixing="auto", fallback=False)
    result, plain = compare(method, stretched(), 3, mix=PlainAutoMixing())
    assert plain.mixings[0] == 1.0 and plain.mixings[-1] < 0.7
    assert "mixing" in result.notes[0] and "instead of 1" in result.notes[0]


def test_automatic_mixing_saves_evaluations_on_a_map_that_overshoots():
    f, z0 = stretched()
    counts = [
        solve(f, z0, Anderson(mixing=mixing), rtol=1e-10, max_iter=500).num_evals
        for mixing in (1.0, "auto")
    ]
    assert counts[1] <= 0.9 * counts[0]


# randomize


def uniform(seed, evaluation, batch=1):
    return np.random.Generator(np.random.Philox(key=seed, counter=evaluation)).random(batch)


def test_a_random_mixing_is_half_to_one_and_a_half_of_the_one_that_was_set():
    method = Anderson(window=3, mixing=0.8, randomize="mixing", randomize_seed=7, fallback=False)
    result, plain = compare(
        method,
        bratu(),
        3,
        mixing=0.8,
        mix=lambda look: 0.8 * (0.5 + uniform(7, look.evaluation)[0]),
    )
    assert 0.4 <= min(plain.mixings) < 0.5 and 1.1 < max(plain.mixings) <= 1.2


def test_a_quarter_of_the_steps_is_skipped():
    method = Anderson(window=3, randomize="skip", randomize_seed=5, fallback=False)
    result, plain = compare(
        method, bratu(), 3, skip=lambda look: uniform(5, look.evaluation)[0] < 0.25
    )
    assert 5 <= plain.depths[2:].count(0) <= 15


class PlainRandomWindow:
    """Drawn anew whenever the history did not grow, or is full."""

    def __init__(self, seed, slots):
        self.seed, self.slots, self.limit, self.before = seed, slots, slots, None

    def __call__(self, look):
        if self.before is None or look.stored <= self.before or look.stored >= self.slots:
            self.limit = 1 + int(self.slots * uniform(self.seed, look.evaluation)[0])
        self.before = look.stored
        return self.limit


@pytest.mark.parametrize("restart", ["full", "never"])
def test_a_random_window_is_drawn_for_each_history(restart):
    method = Anderson(
        window=5, randomize="window", randomize_seed=3, restart=restart, fallback=False
    )
    result, plain = compare(
        method, bratu(), 5, restart, limit=PlainRandomWindow(3, 5), close=1e-5, num=25
    )
    assert len(set(plain.depths[5:])) >= 3


@pytest.mark.parametrize("what", ["window", "mixing", "skip"])
def test_random_choices_depend_on_the_seed_alone_and_on_no_neighbour(what):
    def run(seed, samples=4):
        method = Anderson(randomize=what, randomize_seed=seed)
        problem = Bratu(size=8, batch_size=samples, dtype="float64").build()
        return iterates(problem.f, problem.z0, method, rtol=1e-8)[0]

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1)[:20], run(2)[:20])
    assert torch.equal(run(1)[:15, :1], run(1, 1)[:15])
