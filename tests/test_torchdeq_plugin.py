"""Our methods inside torchdeq: its arguments, its answers, its gradients.

torchdeq is no dependency of ours: the tests that need it are skipped without it.
"""

import copy
import importlib
import pickle
import sys

import pytest
import torch
from cases import Witness, recomputed
from torch import nn

from andersonn_core import METHODS, Anderson, Broyden, KnobError

NAMES = [*(f"lab_{name}" for name in METHODS), "lab_deflated"]
every_solver = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def plugin():
    pytest.importorskip("torchdeq", reason="needs torchdeq: pip install torchdeq==0.1.0")
    return importlib.import_module("andersonn_core.torchdeq_plugin")


@pytest.fixture
def get_solver(plugin):
    from torchdeq.solver import get_solver

    return get_solver


@pytest.fixture
def get_deq(plugin):
    from torchdeq import get_deq

    return get_deq


def affine(rates=(0.3, 0.5, 0.7), n=6, scale=1.0):
    """A contraction of its own for each sample, and a start."""
    generator = torch.Generator().manual_seed(3)
    b = scale * torch.randn(len(rates), n, generator=generator, dtype=torch.float64)
    d = torch.tensor(rates)[:, None] * torch.linspace(-0.5, 1, n, dtype=torch.float64)
    return (lambda z: d * z + b), torch.zeros_like(b)


class Cell(nn.Module):
    """f(z) = tanh(W z + x), a contraction of norm 0.7."""

    def __init__(self, n=5, batch=4):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        w = torch.randn(n, n, generator=generator, dtype=torch.float64)
        self.w = nn.Parameter(0.7 * w / torch.linalg.matrix_norm(w, 2))
        self.x = 0.3 * torch.randn(batch, n, generator=generator, dtype=torch.float64)

    def forward(self, z):
        return (z @ self.w.T + self.x).tanh()


def test_all_methods_are_registered_beside_those_of_torchdeq(plugin, get_solver):
    from torchdeq.solver.anderson import anderson_solver

    assert list(plugin.SOLVERS) == NAMES
    assert [get_solver(name).name for name in NAMES] == NAMES
    assert get_solver("anderson") is anderson_solver


@every_solver
def test_the_statistics_are_those_of_the_point_that_is_returned(get_solver, name):
    f, z0 = affine()
    watched = Witness(f)
    z, states, stat = get_solver(name)(watched, z0, max_iter=60, tol=1e-4, stop_mode="rel")
    assert states == [] and not z.requires_grad
    used = len(watched.points)
    assert (stat["rel_lowest"] <= 1e-4).all() and used < 60
    torch.testing.assert_close(stat["rel_lowest"], recomputed(f, z))
    torch.testing.assert_close(stat["abs_lowest"], (f(z) - z).norm(dim=1))
    for sample, step in enumerate(stat["nstep"].long()):
        torch.testing.assert_close(watched.points[step - 1][sample], z[sample], rtol=0, atol=0)
        for mode in ("abs", "rel"):
            trace, lowest = stat[f"{mode}_trace"][sample], stat[f"{mode}_lowest"][sample]
            assert trace.shape == (60,) and trace[step - 1] == lowest
            assert (trace[used:] == lowest).all()
        torch.testing.assert_close(stat["rel_trace"][sample].min(), stat["rel_lowest"][sample])
    torch.testing.assert_close(stat["rel_trace"][:, 0], recomputed(f, z0))
    assert stat["sradius"].tolist() == [-1.0]  # torchdeq's own word for "not asked"


@pytest.mark.parametrize("stop_mode", ["abs", "rel"])
def test_forward_iteration_stops_where_that_of_torchdeq_does(get_solver, stop_mode):
    f, z0 = affine(rates=(0.3, 0.9, 0.6))
    options = {"max_iter": 80, "tol": 1e-5, "stop_mode": stop_mode}
    z, _, ours = get_solver("lab_picard")(f, z0, **options)
    image, _, theirs = get_solver("fixed_point_iter")(f, z0, **options)
    assert torch.equal(ours["nstep"], theirs["nstep"].to(z))
    torch.testing.assert_close(f(z), image)
    for trace in ("abs_trace", "rel_trace"):  # theirs begins with a residual of 1e8
        torch.testing.assert_close(ours[trace], theirs[trace][:, 1:])


def test_samples_go_on_until_each_has_met_the_test_once(get_solver):
    """f sees them all anyway: those that are done come back better than was asked for."""
    f, z0 = affine()
    watched = Witness(f)
    z, _, stat = get_solver("lab_anderson")(watched, z0, tol=1e-4, stop_mode="rel")
    residuals = torch.stack([recomputed(f, point) for point in watched.points])
    first = (residuals <= 1e-4).long().argmax(0)
    assert len(residuals) == int(first.max()) + 1 and int(first.min()) < int(first.max())
    torch.testing.assert_close(recomputed(f, z), residuals.amin(0))
    assert stat["rel_lowest"][first.argmin()] < 1e-5


def test_a_relative_tolerance_has_the_floor_of_torchdeq(get_solver):
    def halve(z):
        return 0.5 * z

    z0 = torch.full((1, 1), 1e-12, dtype=torch.float64)
    counts = [
        int(get_solver(name)(halve, z0, tol=1e-3, stop_mode="rel")[2]["nstep"])
        for name in ("lab_picard", "fixed_point_iter")
    ]
    assert counts == [1, 1]  # the residual is all of f(z), and below 1e-3 * 1e-9


def test_m_counts_iterates_as_in_torchdeq(get_solver):
    seen = {}
    for name, more in (("anderson", {"lam": 0.0}), ("lab_anderson", {"restart": "never"})):
        f, z0 = affine(rates=(0.9,), n=40)
        seen[name] = Witness(f)
        get_solver(name)(seen[name], z0, max_iter=12, tol=0.0, m=4, **more)
    ours, theirs = (torch.stack(seen[name].points) for name in ("lab_anderson", "anderson"))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_options_by_the_names_of_torchdeq_set_our_knobs(plugin):
    of = plugin.SOLVERS
    assert of["lab_anderson"]._method({"m": 4, "tau": 0.7, "lam": 1e-4}) == Anderson(
        window=3, mixing=0.7, regularization=1e-4
    )
    assert of["lab_broyden"]._method({"LBFGS_thres": 4, "ls": False}) == Broyden(window=4)
    assert of["lab_deflated"]._method({"m": 9}).restart == "deflated"
    assert of["lab_anderson"]._method({"window": "auto"}).window == "auto"


def test_lam_does_not_depend_on_the_unit(get_solver):
    counts = []
    for scale in (1e-8, 1.0, 1e8):
        f, z0 = affine(scale=scale)
        _, _, stat = get_solver("lab_anderson")(f, z0, tol=1e-6, stop_mode="rel", lam=1e-4)
        counts.append(stat["nstep"].tolist())
    assert counts[0] == counts[1] == counts[2]


@every_solver
def test_indexing_gives_the_best_points_so_far_one_for_each_entry(get_solver, name):
    f, z0 = affine()
    watched = Witness(f)
    indexing = [1, 3, 5, 5, 40, 60]
    z, states, _ = get_solver(name)(
        watched, z0, max_iter=60, tol=1e-3, stop_mode="rel", indexing=indexing
    )
    assert len(watched.points) < 40 and len(states) == len(indexing)
    torch.testing.assert_close(states[0], z0)
    for k, state in zip(indexing[:4], states, strict=False):
        residuals = torch.stack([recomputed(f, point) for point in watched.points[:k]])
        torch.testing.assert_close(recomputed(f, state), residuals.amin(0))
    assert all(torch.equal(state, z) for state in states[4:])


GRADIENTS = {
    "ift": {"ift": True},
    "hook": {"hook_ift": True},
    "phantom": {"grad": 4, "tau": 0.8},
}


def gradients(deq, cell):
    """What a training step of a torchdeq program does, with a loss on all states that it gets."""
    states, _ = deq(cell, torch.zeros_like(cell.x))
    sum((k + 1) * state.square().sum() for k, state in enumerate(states)).backward()
    return len(states), cell.w.grad


def tight(get_deq, solver, **options):
    """To rounding; torchdeq's solvers must not end early, or some of their states are missing."""
    tol = 1e-12 if solver.startswith("lab_") else 0.0
    return get_deq(
        f_solver=solver, b_solver=solver, f_tol=tol, b_tol=tol, f_max_iter=120, b_max_iter=60,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("n_states", [1, 2])
@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("core", ["sliced", "indexing"])
def test_gradients_agree_with_those_of_torchdeq(get_deq, core, kind, n_states):
    options = GRADIENTS[kind] | {"core": core, "n_states": n_states}
    theirs = gradients(tight(get_deq, "fixed_point_iter", **options), Cell())
    ours = gradients(tight(get_deq, "lab_anderson", **options), Cell())
    assert ours[0] == theirs[0] == n_states
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-8, atol=1e-10)


@every_solver
def test_every_method_solves_forward_and_backward(get_deq, name):
    theirs = gradients(tight(get_deq, "fixed_point_iter", ift=True), Cell())
    seen = []
    deq = tight(get_deq, name, ift=True)
    cell = Cell()
    states, info = deq(cell, torch.zeros_like(cell.x), backward_writer=seen.append)
    states[0].square().sum().backward()
    torch.testing.assert_close(cell.w.grad, theirs[1], rtol=1e-8, atol=1e-10)
    assert (info["rel_lowest"] < 1e-11).all() and (seen[0]["abs_lowest"] < 1e-11).all()


def test_a_solve_that_ends_early_still_has_every_state_and_the_implicit_gradient(get_deq):
    """torchdeq's own solvers give one state here, with the gradient meant for the first one."""
    found = {}
    for solver in ("fixed_point_iter", "lab_anderson"):
        deq = get_deq(core="indexing", ift=True, n_states=2, f_max_iter=200, f_tol=1e-9,
                      b_tol=1e-10, f_solver=solver, b_solver=solver)  # fmt: skip
        cell = Cell()
        states, _ = deq(cell, torch.zeros_like(cell.x))
        states[-1].square().sum().backward()
        found[solver] = len(states), cell.w.grad
    alone, cell = tight(get_deq, "fixed_point_iter", ift=True), Cell()
    alone(cell, torch.zeros_like(cell.x))[0][0].square().sum().backward()
    assert (found["fixed_point_iter"][0], found["lab_anderson"][0]) == (1, 2)
    torch.testing.assert_close(found["lab_anderson"][1], cell.w.grad, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(found["fixed_point_iter"][1], cell.w.grad, rtol=1e-3)


def test_states_of_several_tensors(get_deq):
    """torchdeq hands them to a solver as rows."""
    found = []
    for solver in ("fixed_point_iter", "lab_anderson"):
        cell = Cell(n=6)

        def split(a, b, cell=cell):
            value = cell(torch.cat([a, b.flatten(1)], dim=1))
            return value[:, :2], value[:, 2:].reshape(-1, 2, 2)

        start = cell.x.new_zeros(4, 2), cell.x.new_zeros(4, 2, 2)
        ((a, b),) = tight(get_deq, solver, ift=True)(split, start)[0]
        (a.square().sum() + b.sum()).backward()
        found.append((a.detach(), b.detach(), cell.w.grad))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_calls_options_reach_the_method_and_misspelled_ones_are_refused(get_deq):
    cell, deq = Cell(), get_deq(f_solver="lab_anderson", b_solver="lab_anderson", f_tol=1e-9)
    start = torch.zeros_like(cell.x)
    counts = [float(deq(cell, start, solver_kwargs={"m": m})[1]["nstep"].max()) for m in (1, 2, 6)]
    assert counts[0] > counts[1] > counts[2]
    with pytest.raises(KnobError, match="lab_anderson: Anderson has no knob 'lamb'"):
        deq(cell, start, solver_kwargs={"lamb": 1e-4})


REFUSED = {
    "m = 0": ("lab_anderson", {"m": 0}, r"window \(m\) = -1 is not allowed.*m is its window \+ 1"),
    "m of a method without": ("lab_picard", {"m": 6}, "Picard has no knob 'm'"),
    "return_final": ("lab_anderson", {"return_final": True}, "z is the best point"),
    "line search": ("lab_broyden", {"ls": True}, "no line search"),
    "twice": ("lab_anderson", {"tau": 1.0, "mixing": 0.5}, "two values for one knob"),
    "stop mode": ("lab_anderson", {"stop_mode": "both"}, "must be 'abs' or 'rel'"),
    "tolerance": ("lab_anderson", {"tol": -1.0}, "atol = -1.0 is not allowed"),
    "indexing": ("lab_anderson", {"indexing": [0, 3]}, "numbers of evaluations, 1 or above"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_evaluated(get_solver, case):
    name, options, message = REFUSED[case]
    watched = Witness(torch.cos)
    with pytest.raises(KnobError, match=message):
        get_solver(name)(watched, torch.zeros(2, 3), **options)
    assert watched.points == []


def test_a_map_that_overwrites_its_argument_is_refused(get_solver):
    with pytest.raises(ValueError, match="in place"):
        get_solver("lab_anderson")(lambda z: z.mul_(0.5).add_(1), torch.zeros(2, 3))


@pytest.mark.parametrize("kind", ["ift", "hook"])
def test_second_derivatives_are_refused(get_deq, kind):
    """torchdeq's own solvers give wrong ones (reference case: tanh, -1.200 instead of -3.068)."""
    cell, deq = Cell(), tight(get_deq, "lab_anderson", **GRADIENTS[kind])
    loss = deq(cell, torch.zeros_like(cell.x))[0][0].square().sum()
    with pytest.raises(RuntimeError, match="no second derivative.*andersonn_core.DEQ"):
        torch.autograd.grad(loss, cell.w, create_graph=True)


def test_a_sample_that_is_lost_is_nan_and_harms_no_other(get_solver):
    f, z0 = affine()
    z0[1, 2] = torch.nan
    alone, _, _ = get_solver("lab_anderson")(f, torch.zeros_like(z0), stop_mode="rel")
    z, states, stat = get_solver("lab_anderson")(f, z0, stop_mode="rel", indexing=[2, 50])
    for point in (z, *states):
        assert point.isnan().all(1).tolist() == [False, True, False]
    torch.testing.assert_close(z[[0, 2]], alone[[0, 2]])
    assert not stat["nstep"].isnan().any()


def test_a_gradient_that_is_nan_is_passed_on(get_deq):
    """Zeros in its place would keep a loss scaler from skipping the step."""
    cell, deq = Cell(), get_deq(ift=True, f_solver="lab_anderson", b_solver="lab_anderson")
    z = deq(cell, torch.zeros_like(cell.x))[0][0]
    (z.sum() * torch.tensor(torch.nan, dtype=z.dtype)).backward()
    assert cell.w.grad.isnan().all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4, 5), (0, 3)])
def test_starts_of_every_rank(get_solver, shape):
    z0 = torch.zeros(shape, dtype=torch.float64)
    z, _, stat = get_solver("lab_anderson")(torch.cos, z0, tol=1e-9)
    torch.testing.assert_close(z, torch.full_like(z0, 0.7390851332151607))
    batch = shape[0] if shape else 1
    assert stat["nstep"].shape == (batch,) and stat["abs_trace"].shape == (batch, 50)


def test_no_evaluations_give_the_start(get_solver):
    """core="sliced" asks for none where two entries of indexing are equal."""
    watched, z0 = Witness(torch.cos), torch.full((2, 3), 0.5)
    z, states, stat = get_solver("lab_anderson")(watched, z0, max_iter=0, indexing=[1])
    assert torch.equal(z, z0) and torch.equal(states[0], z0) and watched.points == []
    assert stat["abs_lowest"].tolist() == [torch.inf] * 2 and stat["nstep"].tolist() == [0.0] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_autocast(get_solver, dtype):
    """f runs under autocast as it would in torchdeq's solver, the method itself does not."""
    layer, seen = nn.Linear(8, 8), []
    nn.init.orthogonal_(layer.weight, gain=0.5)

    def f(z):
        value = layer(z)
        seen.append((z.dtype, value.dtype))
        return value

    for name in ("lab_anderson", "lab_broyden"):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            z, _, stat = get_solver(name)(
                f, torch.ones(4, 8, dtype=dtype), tol=2e-2, stop_mode="rel"
            )
        assert z.dtype == dtype and (stat["rel_lowest"] <= 2e-2).all()
        assert stat["rel_lowest"].dtype == torch.float32
    assert set(seen) == {(dtype, torch.bfloat16)}


def test_solvers_can_be_copied_and_pickled(plugin, get_deq):
    solver = plugin.SOLVERS["lab_anderson"]
    assert pickle.loads(pickle.dumps(solver)) == solver
    assert copy.deepcopy(get_deq(f_solver="lab_anderson")).f_solver == solver


def test_without_torchdeq_a_sentence_says_what_to_install(monkeypatch):
    for name in ("torchdeq", "torchdeq.solver"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "andersonn_core.torchdeq_plugin", raising=False)
    with pytest.raises(ImportError, match="pip install torchdeq"):
        importlib.import_module("andersonn_core.torchdeq_plugin")


def test_the_benchmark_counts_evaluations_and_products_of_a_cell():
    from benchmarks.plugin import counting

    cell, other = Cell(), nn.Linear(5, 5, dtype=torch.float64)
    with counting(Cell) as counts:
        with torch.no_grad():
            z = cell(cell(cell.x))
        value = cell(other(z))
        for _ in range(3):
            torch.autograd.grad(value.sum(), cell.w, retain_graph=True)
    cell(z)
    assert (counts.evaluations, counts.products) == (3, 3)


@pytest.mark.parametrize("program", ["graph", "image"])
def test_programs_of_the_benchmark_take_our_solvers_by_name(plugin, program):
    main = importlib.import_module(f"benchmarks.programs.{program}").main
    scores = {name: main(name, seed=0, steps=1) for name in ("anderson", "lab_anderson")}
    assert scores["lab_anderson"] == pytest.approx(scores["anderson"], rel=0.05)
