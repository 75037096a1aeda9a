"""Gradients through an equilibrium: exact where they claim it, what they say elsewhere.

Finite differences (torch.autograd.gradcheck), dense linear algebra and plain autograd through a
loop are the judges; none of them shares code with the layer.
"""

import warnings

import pytest
import torch
from cases import every_method
from deq_cases import Calls, Named, Pair, dense, equilibrium, flat, gradients, inputs, layer
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrizations

from andersonn_core import DEQ, Anderson, KnobError, Picard
from andersonn_core.deq import GRADIENTS, AdjointWarning, Neumann, Phantom, VariationalDropout

SLIDING = Anderson(window=3, restart="never")
FEW = {"gradient": "unrolled", "rtol": 0.0, "max_iter": 6}  # exact for what was computed
EXACT_ONES = {
    "implicit": {"gradient": "implicit"},
    "implicit, Picard": {"gradient": "implicit", "method": Picard()},
    "shine": {"gradient": "shine", "method": SLIDING},
    "unrolled, Picard": FEW | {"method": Picard(mixing=0.9)},
    "unrolled, full": FEW | {"method": Anderson(window=3)},
    "unrolled, never": FEW | {"method": SLIDING},
}
every_exact = pytest.mark.parametrize("knobs", EXACT_ONES.values(), ids=EXACT_ONES)
APPROXIMATE = ("jacobian_free", "phantom", "neumann")


def parameters(cell):
    return [parameter for parameter in cell.parameters() if parameter.requires_grad]


def check(function, *wanted):
    """Finite differences along random directions, which see every element."""
    assert gradcheck(function, wanted, fast_mode=True)


# exact, by finite differences


@pytest.mark.parametrize("knobs", [EXACT_ONES["implicit"], EXACT_ONES["unrolled, full"]])
def test_an_exact_gradient_is_that_of_finite_differences_in_every_element(knobs):
    cell, x = dense(), inputs()
    deq = layer(cell, **knobs)
    assert gradcheck(lambda *_: deq(x), (x, *cell.parameters()))


@every_exact
@pytest.mark.parametrize("kind", [dense, Pair, Named], ids=["tensor", "tuple", "dict"])
def test_an_exact_gradient_is_that_of_finite_differences(kind, knobs):
    cell, x = kind(), inputs()
    deq = layer(cell, **knobs)
    check(lambda *_: flat(deq(x)), x, *cell.parameters())


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
@every_exact
def test_through_torchs_parametrizations(norm, knobs):
    cell = dense()
    getattr(parametrizations, norm)(cell.state)
    cell.eval()  # spectral norm changes the map in training, which finite differences would see
    deq, x = layer(cell, **knobs), inputs()
    check(lambda *_: deq(x), x, *cell.parameters())


@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_with_masks_that_stay_for_a_solve(gradient):
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.dropout = dense(), VariationalDropout(0.5)

        def forward(self, z, x):
            return self.cell(self.dropout(z), x)

        def initial_state(self, x):
            return self.cell.initial_state(x)

    cell, x = Dropped(), inputs()
    deq = layer(cell, gradient, max_iter=60)

    def run(*_):
        torch.manual_seed(3)
        return deq(x)

    check(run, x, *cell.parameters())


@every_exact
def test_of_every_tensor_in_the_input(knobs):
    cell = dense()
    a, b = inputs(), inputs(seed=2)
    number = torch.arange(2)  # no gradient, no floating point

    def joined(z, x):
        return cell(z, x["pair"][0] * x["pair"][1][0]) + 0.01 * x["number"][:, None]

    deq = layer(joined, **knobs)
    z0 = torch.zeros(2, 4, dtype=torch.float64)

    def run(a, b):
        return deq({"pair": (a, [b]), "number": number}, z0)

    check(run, a, b)


@every_exact
def test_of_what_a_function_holds_in_its_closure(knobs):
    weight = (0.3 * torch.eye(3, dtype=torch.float64) + 0.05).requires_grad_()
    shift = inputs(1)

    def cell(z, x):
        return (z @ weight).tanh() + x * shift

    deq = layer(cell, **knobs)
    check(lambda x, *_: deq(x), inputs(), weight, shift)


@every_exact
def test_a_parameter_shared_by_encoder_and_cell_counts_once_for_each_use(knobs):
    cell = dense(width=3, inputs=3)
    deq, x = layer(cell, **knobs), inputs()

    def run(*_):
        return deq((x @ cell.state.weight).tanh())

    check(run, x, *cell.parameters())


@every_exact
def test_without_gradients_of_the_input_and_with_a_frozen_parameter(knobs):
    cell = dense()
    cell.input.bias.requires_grad_(False)
    deq, x = layer(cell, **knobs), inputs().detach()
    check(lambda *_: deq(x), *parameters(cell))
    deq(x).sum().backward()
    assert cell.input.bias.grad is None


@every_exact
def test_a_parameter_that_is_not_used_gets_no_gradient(knobs):
    cell = dense()
    cell.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    layer(cell, **knobs)(inputs()).sum().backward()
    assert cell.unused.grad is None and cell.state.weight.grad is not None


@every_exact
def test_a_second_backward_pass_gives_the_same_gradient_and_a_third_one_is_torchs_error(knobs):
    cell, x = dense(), inputs()
    loss = layer(cell, **knobs)(x).square().sum()
    first = gradients(loss, x, *cell.parameters(), retain_graph=True)
    second = gradients(loss, x, *cell.parameters())
    assert all(map(torch.equal, first, second))
    with pytest.raises(RuntimeError, match="second time"):
        gradients(loss, x)


@every_exact
def test_the_gradient_of_one_sample_is_that_of_its_own_solve(knobs):
    cell, x = dense(), inputs(4)
    deq = layer(cell, **knobs)
    wanted = (x, *cell.parameters())
    ours = gradients(deq(x)[2].square().sum(), *wanted)
    assert not ours[0][[0, 1, 3]].any()
    alone = x.detach()[2:3].requires_grad_()
    theirs = gradients(deq(alone).square().sum(), alone, *cell.parameters())
    torch.testing.assert_close(ours[0][2:3], theirs[0], rtol=1e-8, atol=1e-10)
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@every_exact
def test_a_hook_on_a_parameter_is_called_once_for_each_backward_pass(knobs):
    cell, x = dense(), inputs()
    deq = layer(cell, **knobs)
    (plain,) = gradients(deq(x).sum(), cell.state.weight)
    calls = []
    cell.state.weight.register_hook(lambda grad: calls.append(1) or 3 * grad)
    deq(x).sum().backward()
    assert len(calls) == 1
    torch.testing.assert_close(cell.state.weight.grad, 3 * plain)


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_cell_that_does_not_depend_on_its_input_or_on_anything(name):
    x = inputs()
    deq = layer(lambda z, x: 0.5 * z + 1, name)
    assert not deq(x).requires_grad or not gradients(deq(x).sum(), x)[0].any()
    deq = layer(lambda z, x: torch.ones_like(z), name)
    assert not deq(x).requires_grad or not gradients(deq(x).sum(), x)[0].any()


def test_unrolled_reaches_the_start_and_the_others_rightly_do_not():
    cell, x = dense(), inputs().detach()
    z0 = torch.full((2, 4), 0.3, dtype=torch.float64, requires_grad=True)
    for method in (Picard(), SLIDING):
        deq = layer(cell, "unrolled", method=method, rtol=0.0, max_iter=5)
        check(lambda z0, deq=deq: deq(x, z0), z0)
        assert gradients(deq(x, z0).sum(), z0)[0].abs().max() > 1e-4
    assert not gradients(layer(cell)(x, z0).sum(), z0)[0].any()


# second derivatives


@pytest.mark.parametrize(
    "knobs", [knobs for name, knobs in EXACT_ONES.items() if name != "implicit, Picard"]
)
@pytest.mark.parametrize("kind", [dense, Named], ids=["tensor", "dict"])
def test_a_second_derivative_is_that_of_finite_differences(kind, knobs):
    cell, x = kind(), inputs()
    deq = layer(cell, **knobs)
    assert gradgradcheck(
        lambda x, *_: flat(deq(x)), (x, *cell.parameters()), fast_mode=True, atol=1e-4
    )


@pytest.mark.parametrize("gradient", ["implicit", "shine"])
def test_a_second_derivative_through_an_encoder_that_shares_a_parameter(gradient):
    cell, x = dense(width=3, inputs=3), inputs()
    deq = layer(cell, gradient, method=SLIDING)

    def run(x, *_):
        return deq((x @ cell.state.weight).tanh())

    assert gradgradcheck(run, (x, *cell.parameters()), fast_mode=True, atol=1e-4)


def test_torchs_weight_norm_has_a_wrong_second_derivative():
    """The reason for the refusal below; where torch is mended, both tests can go."""
    weight = parametrizations.weight_norm(nn.Linear(3, 3).double()).parametrizations.weight

    def made(g, v):
        return torch._weight_norm(v, g, 0)

    parts = weight.original0, weight.original1
    assert gradcheck(made, parts)
    assert not gradgradcheck(made, parts, raise_exception=False)


@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_so_it_is_refused(gradient):
    cell, x = dense(), inputs()
    parametrizations.weight_norm(cell.state)
    z = layer(cell, gradient, max_iter=40)(x)
    with pytest.raises(RuntimeError, match="weight norm.*remove_parametrizations.*create_graph"):
        z.sum().backward(create_graph=True)


def test_the_scalar_whose_second_derivative_torchdeq_gets_wrong():
    """Z = tanh(w z + x): d2z/dx2 by hand; torchdeq 0.1.0 with ift=True keeps a graph without it."""
    w = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    z = layer(lambda z, x: (w * z + x).tanh())(x)
    (slope,) = gradients(z, x, create_graph=True)
    (curve,) = gradients(slope, x)
    s = 1 - z.detach() ** 2  # tanh' at the equilibrium
    first = s / (1 - w.detach() * s)
    second = -2 * z.detach() * s * (w.detach() * first + 1) ** 2 / (1 - w.detach() * s)
    torch.testing.assert_close(slope.detach(), first, rtol=1e-10, atol=0)
    torch.testing.assert_close(curve, second, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_the_derivative_of_an_approximation_is_refused(name):
    cell, x = dense(), inputs()
    z = layer(cell, name)(x)
    with pytest.raises(RuntimeError, match="approximation.*implicit.*create_graph=True"):
        gradients(z.sum(), x, create_graph=True)


@pytest.mark.parametrize("gradient", ["implicit", "shine"])
def test_a_third_derivative_is_refused(gradient):
    cell, x = dense(), inputs()
    z = layer(cell, gradient)(x)
    (first,) = gradients(z.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivative"):
        gradients(first.square().sum(), x, create_graph=True)


def test_a_penalty_on_the_gradient_of_the_input_trains_as_through_a_loop():
    cell, x = dense(), inputs()

    def penalty(z):
        (slope,) = gradients(z.sum(), x, create_graph=True)
        return slope.square().sum()

    ours = gradients(penalty(layer(cell)(x)), *cell.parameters())
    loop = equilibrium(cell, x, cell.initial_state(x))
    theirs = gradients(penalty(loop), *cell.parameters())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_exchanged_parameters_have_a_first_derivative_and_a_second_one_or_a_refusal(gradient):
    cell, x = dense(), inputs()
    deq = layer(cell, gradient, max_iter=40)
    weight = cell.state.weight.detach().clone().requires_grad_()
    z = torch.func.functional_call(deq, {"cell.state.weight": 1.0 * weight}, (x,))
    (slope,) = gradients(z.sum(), weight, retain_graph=True)
    (expected,) = gradients(deq(x).sum(), cell.state.weight)
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)
    if gradient == "unrolled":
        assert gradients(z.sum(), weight, create_graph=True)[0].requires_grad
        return
    with pytest.raises(RuntimeError, match="functional_call.*unrolled"):
        gradients(z.sum(), weight, create_graph=True)


def test_a_second_derivative_of_a_compacting_layer_is_the_same():
    cell = dense()
    x = (
        inputs(8).detach() * torch.logspace(-3, 1, 8, dtype=torch.float64)[:, None]
    ).requires_grad_()
    found = []
    for compact in (False, True):
        (slope,) = gradients(layer(cell, compact=compact)(x).square().sum(), x, create_graph=True)
        found.append(gradients(slope.square().sum(), *cell.parameters()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


class Noisy(nn.Module):
    """A cell with torch's dropout, or spectral norm in training mode: another map at each use."""

    def __init__(self, kind):
        super().__init__()
        self.cell = dense()
        self.dropout = nn.Dropout(0.2 if kind == "dropout" else 0.0)
        if kind == "spectral":
            parametrizations.spectral_norm(self.cell.state, n_power_iterations=1)
            with torch.no_grad():  # as after a large step: the power iteration is not done
                weight = self.cell.state.parametrizations.weight.original
                weight.copy_(torch.randn(4, 4, generator=torch.Generator().manual_seed(5)))

    def forward(self, z, x):
        return 0.5 * self.cell(self.dropout(z), x)

    def initial_state(self, x):
        return self.cell.initial_state(x)


@pytest.mark.parametrize("name", GRADIENTS)
def test_ordinary_dropout_is_refused_where_a_gradient_is_asked_for(name):
    cell, x = Noisy("dropout"), inputs(8)
    deq = layer(cell, name, max_iter=20, method=SLIDING)
    with pytest.raises(RuntimeError, match="VariationalDropout.*eval"):
        deq(x)
    deq.eval()
    deq(x).sum().backward()


def test_spectral_norm_in_training_has_a_first_derivative_and_a_second_one_is_refused():
    cell, x = Noisy("spectral"), inputs()
    z = layer(cell)(x)
    assert torch.isfinite(gradients(z.sum(), x, retain_graph=True)[0]).all()
    with pytest.raises(RuntimeError, match="another value at the same point"):
        gradients(z.sum(), x, create_graph=True)


# independent implementations


def dense_gradient(cell, x, v):
    """(df/dp)^T (I - J^T)^-1 v for each sample, by a dense solve; with respect to x, parameters."""
    z = equilibrium(cell, x, cell.initial_state(x)).detach()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z, x: cell(z[None], x[None])[0]))(z, x)
    eye = torch.eye(z.shape[1], dtype=z.dtype)
    u = torch.linalg.solve((eye - jacobian.detach()).mT, v)
    return gradients((cell(z, x) * u).sum(), x, *cell.parameters())


@pytest.mark.parametrize("adjoint", [None, Picard(), Anderson(window=2)])
@pytest.mark.parametrize("gradient", ["implicit", "shine"])
def test_the_implicit_gradient_is_that_of_a_dense_solve(gradient, adjoint):
    cell, x = dense(width=6), inputs(3)
    v = inputs(3, 6, seed=4).detach()
    z = layer(cell, gradient, method=SLIDING, adjoint_method=adjoint)(x)
    ours = gradients((z * v).sum(), x, *cell.parameters())
    for one, other in zip(ours, dense_gradient(cell, x, v), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@every_method
def test_every_method_solves_both_problems(method):
    cell, x = dense(width=6), inputs(3)
    v = inputs(3, 6, seed=4).detach()
    ours = gradients((layer(cell, method=method, rtol=1e-10)(x) * v).sum(), x, *cell.parameters())
    for one, other in zip(ours, dense_gradient(cell, x, v), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("terms", [0, 1, 4])
def test_neumann_is_the_truncated_sum(terms):
    cell, x = dense(), inputs()
    deq = layer(cell, Neumann(terms=terms))
    z = deq(x)
    v = inputs(2, 4, seed=4).detach()
    ours = gradients((z * v).sum(), x, *cell.parameters())
    point = deq.last_forward.z.clone().requires_grad_()
    total = term = v
    for _ in range(terms):
        (term,) = gradients((cell(point, x) * term).sum(), point)
        total = total + term
    theirs = gradients((cell(point, x) * total).sum(), x, *cell.parameters())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_jacobian_free_is_neumann_with_no_terms():
    found = []
    for gradient in ("jacobian_free", Neumann(terms=0), Phantom(steps=1, tau=1.0)):
        cell, x = dense(), inputs()
        found.append(gradients(layer(cell, gradient)(x).square().sum(), x, *cell.parameters()))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("steps", "tau"), [(1, 1.0), (3, 0.5), (6, 0.9)])
def test_phantom_is_a_loop_of_damped_steps(steps, tau):
    cell, x = dense(), inputs()
    deq = layer(cell, Phantom(steps=steps, tau=tau))
    z = deq(x)
    ours = gradients(z.square().sum(), x, *cell.parameters())
    loop = deq.last_forward.z
    for _ in range(steps):
        loop = (1 - tau) * loop + tau * cell(loop, x)
    theirs = gradients(loop, x, *cell.parameters(), grad_outputs=2 * z.detach())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_gradients_of_a_map_that_hands_on_parts_of_its_state():
    """(a, b) -> (x a', a): parts of the incoming gradient pass through untouched, as views."""

    def cell(z, x):
        return 0.5 * z[1] * x, z[0]

    x = inputs()
    z0 = torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    deq = layer(cell, Neumann(terms=2), rtol=0.0, max_iter=3)
    a, b = deq(x, z0)
    v = torch.ones_like(a)
    (slope,) = torch.autograd.grad((a, b), x, (v, 2 * v))
    assert (v == 1).all()
    point = deq.last_forward.z[1]
    # u = v + J^T v + (J^T)^2 v with J^T (s, t) = (t, 0.5 x s): the first component of u
    c = 0.5 * x.detach()
    torch.testing.assert_close(slope, (v + 2 * v + c * v) * 0.5 * point)


def test_a_map_that_returns_its_state_gets_each_term_of_the_series():
    x, z0 = inputs(), torch.ones(2, 3, dtype=torch.float64)
    deq = layer(lambda z, x: z if x is None else z + 0 * x, Neumann(terms=2))
    v = torch.ones(2, 3, dtype=torch.float64)
    deq(x, z0).backward(v)
    assert (v == 1).all()


# unrolled


@pytest.mark.parametrize("mixing", [1.0, 0.7])
@pytest.mark.parametrize("evals", [1, 2, 7])
def test_unrolled_picard_is_autograd_through_a_loop_of_the_same_length(evals, mixing):
    cell, x = dense(), inputs()
    z = layer(cell, "unrolled", method=Picard(mixing=mixing), rtol=0.0, max_iter=evals)(x)
    loop = cell.initial_state(x)
    for _ in range(evals - 1):  # the answer is an iterate at which the cell was evaluated
        loop = (1 - mixing) * loop + mixing * cell(loop, x)
    torch.testing.assert_close(z, loop, rtol=1e-13, atol=1e-15)
    if evals == 1:  # the start itself, which depends on nothing
        assert not z.requires_grad
        return
    ours = gradients(z.square().sum(), x, *cell.parameters())
    theirs = gradients(loop.square().sum(), x, *cell.parameters())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def plain_anderson(f, z, window, mixing, evals, full_restart, ridge=0.0):
    """Anderson of type II on one sample (n,), differentiable: weights by a dense solve."""
    points, values, keep = [], [], 0
    for evaluation in range(evals):
        g = f(z) - z
        points, values = [*points, z], [*values, g]
        if evaluation == evals - 1:
            return z
        if evaluation:
            keep = 1 if full_restart and keep == window else min(keep + 1, window)
        if not keep:
            z = z + mixing * g
            continue
        newest = points[-keep - 1 :], values[-keep - 1 :]
        dz, dg = (
            torch.stack([b - a for a, b in zip(part, part[1:], strict=False)]) for part in newest
        )
        gram = dg @ dg.T
        scale = gram.diagonal().rsqrt()
        scaled = scale[:, None] * gram * scale + ridge * torch.eye(keep, dtype=z.dtype)
        gamma = scale * torch.linalg.solve(scaled, scale * (dg @ g))
        z = z + mixing * g - gamma @ (dz + mixing * dg)
    return z


# "residuals" only without a ridge, which there is on the residuals' own matrix
@pytest.mark.parametrize(
    ("least_squares", "ridge"),
    [("gram", 0.0), ("gram", 1e-3), ("qr", 0.0), ("qr", 1e-3), ("residuals", 0.0)],
)
@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("evals", [2, 5, 9])
def test_unrolled_anderson_is_autograd_through_a_plain_one(evals, restart, ridge, least_squares):
    cell, x = dense(width=8, scale=0.9), inputs(3)
    method = Anderson(
        window=3, mixing=0.8, restart=restart, regularization=ridge, least_squares=least_squares
    )
    z = layer(cell, "unrolled", method=method, rtol=0.0, max_iter=evals)(x)
    ours = gradients(z.square().sum(), x, *cell.parameters())
    rows = [
        plain_anderson(
            lambda z, k=k: cell(z[None], x[k : k + 1])[0], cell.initial_state(x)[k], 3, 0.8, evals,
            restart == "full", ridge,
        )
        for k in range(3)
    ]  # fmt: skip
    loop = torch.stack(rows)
    torch.testing.assert_close(z, loop, rtol=1e-9, atol=1e-11)
    theirs = gradients(loop.square().sum(), x, *cell.parameters())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "knob",
    [
        {"restart": "deflated"}, {"restart": "auto"}, {"max_growth": 2.0}, {"max_weights": 10.0},
        {"randomize": "skip"}, {"window": "auto"}, {"mixing": "auto"}, {"filtering": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_unrolled_refuses_what_it_cannot_tape(knob):
    cell = Calls(dense())
    (name,) = knob
    with pytest.raises(KnobError, match=f"unrolled.*{name} = .*implicit"):
        layer(cell, "unrolled", method=Anderson(**knob))
    assert not cell.calls


@pytest.mark.parametrize("knob", [{"period": 2}, {"delay": 3}, {"max_condition": 4.0}], ids=str)
def test_unrolled_follows_periods_delays_and_columns_left_out(knob):
    cell, x = dense(width=8, scale=0.9), inputs(3)
    method = Anderson(window=4, **knob)
    deq = layer(cell, "unrolled", method=method, rtol=0.0, max_iter=9)
    if "max_condition" in knob:
        deq(x)
        depth = deq.last_forward.history.depth
        assert bool((depth[4:-1] < 4).any())
    check(lambda *_: deq(x), x, cell.state.weight)


def test_unrolled_in_single_and_half_precision_is_near_the_double_one():
    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        cell, x = dense(width=8).to(dtype), inputs(3).detach().to(dtype).requires_grad_()
        z = layer(cell, "unrolled", rtol=1e-2)(x)
        assert z.dtype == dtype
        found[dtype] = gradients(z.square().sum(), x)[0].double()
    exact = found.pop(torch.float64)
    for dtype, most in ((torch.float32, 2e-2), (torch.bfloat16, 0.1)):
        assert float((found[dtype] - exact).norm() / exact.norm()) < most


# when the backward solve has trouble


def stiff(x):
    """J = 0.999: the adjoint needs thousands of plain steps, Anderson two."""
    return DEQ(
        lambda z, x: 0.999 * z + x, Anderson(), rtol=1e-6, adjoint_method=Picard(), max_iter=30
    )


def test_a_backward_solve_that_ends_early_warns_is_counted_and_gives_its_best_gradient():
    x = inputs()
    deq = stiff(x)
    z = deq(x)
    assert bool(deq.last_forward.converged.all()) and deq.last_adjoint is None
    with pytest.warns(AdjointWarning, match="2 of 2 samples.*30 evaluations.*adjoint_max_iter"):
        (slope,) = gradients(z.sum(), x)
    assert deq.last_adjoint.num_evals == 30 and not deq.last_adjoint.converged.any()
    assert (deq.tally.adjoint, deq.tally.adjoint_unconverged) == (2, 2)
    assert (deq.tally.forward, deq.tally.forward_unconverged) == (2, 0)
    # 29 plain steps from v: 30 terms of the series
    terms = sum(0.999**k for k in range(30))
    torch.testing.assert_close(slope, torch.full_like(slope, terms))


def test_a_gradient_that_is_not_finite_warns_and_harms_only_its_sample():
    cell, x = dense(), inputs(3)
    deq = layer(cell)
    z = deq(x)
    v = torch.ones_like(z)
    (fine,) = gradients(z, x, grad_outputs=v, retain_graph=True)
    for broken in (torch.nan, torch.inf):
        v[1, 2] = broken
        with pytest.warns(AdjointWarning, match="NaN or infinity.*1 of 3 samples"):
            (slope,) = gradients(z, x, grad_outputs=v, retain_graph=True)
        assert not torch.isfinite(slope[1]).all()
        torch.testing.assert_close(slope[[0, 2]], fine[[0, 2]], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", GRADIENTS)
def test_nan_in_one_sample_of_x_harms_no_other_samples_output_and_gradient(name):
    cell, x = dense(), inputs(3)
    deq = layer(cell, name, method=SLIDING, max_iter=60)
    z = deq(x)
    v = torch.ones_like(z)
    fine = gradients(z, x, grad_outputs=v)[0]
    broken = x.detach().clone()
    broken[1, 0] = torch.nan
    broken.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointWarning)
        result = deq(broken)
        slope = gradients(result, broken, grad_outputs=v)[0]
    torch.testing.assert_close(result[[0, 2]], z[[0, 2]], rtol=1e-10, atol=0)
    torch.testing.assert_close(slope[[0, 2]], fine[[0, 2]], rtol=1e-8, atol=1e-12)
    assert torch.equal(result[1], deq.last_forward.z[1])


def test_on_an_affine_map_shine_starts_at_the_solution():
    """After n + 1 evaluations differences span everything: the secant inverse is the inverse."""
    n, torch_rng = 6, torch.Generator().manual_seed(0)
    a = torch.randn(n, n, generator=torch_rng, dtype=torch.float64)
    a *= 0.9 / torch.linalg.matrix_norm(a, 2)
    x, starts, slopes = inputs(3, n), {}, {}
    for gradient in ("implicit", "shine"):
        method = Anderson(window=n, restart="never")
        deq = layer(lambda z, x: z @ a.T + x, gradient, method=method, rtol=1e-9)
        (slopes[gradient],) = gradients(deq(x).square().sum(), x)
        starts[gradient] = float(deq.last_adjoint.history.relative_residual[0].max())
    assert starts["shine"] < 1e-6 and starts["implicit"] > 0.1
    torch.testing.assert_close(slopes["shine"], slopes["implicit"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("window", [0, 1])
def test_shine_with_hardly_any_window(window):
    cell, x = dense(), inputs()
    deq = layer(cell, "shine", method=Anderson(window=window))
    check(lambda *_: deq(x), x, *cell.parameters())


@pytest.mark.parametrize("evals", [0, 1])
def test_shine_after_a_solve_that_was_stopped_at_once(evals):
    cell, x = dense(), inputs()
    deq = layer(cell, "shine", method=SLIDING)
    asked = iter([False] * evals + [True])
    deq.should_stop = lambda: next(asked, False)
    z = deq(x)
    assert deq.last_forward.num_evals == evals
    assert torch.isfinite(gradients(z.sum(), x)[0]).all()
