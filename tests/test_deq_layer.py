"""What the equilibrium layer promises: its answer, its counts, its refusals, cells of all kinds."""

import copy
import warnings

import numpy as np
import pytest
import torch
from cases import recomputed
from deq_cases import (
    Calls,
    Named,
    Pair,
    Rated,
    dense,
    equilibrium,
    flat,
    gradients,
    inputs,
    layer,
    rated,
)
from torch import nn
from torch.nn.utils import parametrizations

from andersonn_core import DEQ, Anderson, Broyden, KnobError, Picard, Status
from andersonn_core.cells import ConvCell
from andersonn_core.deq import GRADIENTS, AdjointWarning, Implicit, Phantom, VariationalDropout
from andersonn_core.deq.tape import Tape
from andersonn_core.deq.warm import COLD, MEAN

SLIDING = Anderson(window=3, restart="never")
every_gradient = pytest.mark.parametrize("name", GRADIENTS)


def spread(batch=8):
    """Inputs whose samples need different numbers of evaluations."""
    sizes = torch.logspace(-3, 1, batch, dtype=torch.float64)[:, None]
    return (inputs(batch).detach() * sizes).requires_grad_()


# the answer


@every_gradient
def test_repeated_calls_give_identical_bits(name):
    cell, x = ConvCell(4, 4, 2), torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    deq = DEQ(cell, method=SLIDING, gradient=name)
    found = []
    for _ in range(3):
        cell.zero_grad()
        z = deq(x)
        z.square().sum().backward()
        found.append([z.detach(), *(p.grad.clone() for p in cell.parameters())])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@every_gradient
@pytest.mark.parametrize("max_iter", [1, 4, 60])
def test_the_output_is_the_point_whose_residual_is_claimed_to_the_last_bit(name, max_iter):
    cell, x = dense(), spread()
    deq = layer(cell, name, method=SLIDING, rtol=1e-6, max_iter=max_iter)
    z = deq(x)
    result = deq.last_forward
    assert torch.equal(z, result.z) and z.requires_grad == (max_iter > 1 or name != "unrolled")
    true = recomputed(lambda z: cell(z, x), z.detach())
    torch.testing.assert_close(result.relative_residual, true.detach(), rtol=1e-6, atol=1e-16)
    assert bool(result.converged.all()) == (max_iter == 60)
    with torch.no_grad():
        assert torch.equal(deq(x), z)


@pytest.mark.parametrize("kind", [Pair, Named])
def test_states_come_back_in_the_structure_of_the_start(kind):
    cell, x = kind(), inputs()
    z = layer(cell)(x)
    start = cell.initial_state(x)
    assert type(z) is type(start) and (not isinstance(z, dict) or list(z) == list(start))
    torch.testing.assert_close(flat(z), flat(equilibrium(cell, x, start)), rtol=1e-9, atol=1e-11)
    again = layer(cell)(x, z0=z)
    torch.testing.assert_close(flat(again), flat(z), rtol=1e-9, atol=1e-11)


@every_gradient
def test_changing_the_output_in_place_changes_no_result(name):
    cell, x = dense(), inputs()
    deq = layer(cell, name, method=SLIDING)
    with torch.no_grad():
        deq(x).zero_()
    assert deq.last_forward.z.abs().min() > 0
    (expected,) = gradients((2 * deq(x)).sum(), x)
    z = deq(x).mul_(2.0)
    assert not torch.equal(deq.last_forward.z, z)
    assert torch.equal(gradients(z.sum(), x)[0], expected)


def test_an_empty_batch_is_an_empty_equilibrium():
    cell = dense()
    for name in GRADIENTS:
        deq = layer(cell, name, warm_start=True, method=SLIDING)
        for _ in range(8):
            z = deq(inputs(0))
        assert z.shape == (0, 4)
        assert name == "unrolled" or not gradients(z.sum(), deq.cell.state.weight)[0].any()


# evaluations of the cell


@pytest.mark.parametrize(
    ("gradient", "more"),
    [
        ("implicit", lambda evals: 1), ("shine", lambda evals: 1), ("neumann", lambda evals: 1),
        ("jacobian_free", lambda evals: 1), (Phantom(steps=3), lambda evals: 3),
        ("unrolled", lambda evals: evals - 1),
    ],
)  # fmt: skip
def test_every_evaluation_of_the_cell_is_accounted_for(gradient, more):
    cell, x = Calls(dense()), inputs()
    deq = layer(cell, gradient, method=SLIDING, rtol=1e-8)
    with torch.no_grad():
        deq(x)
    evals = deq.last_forward.num_evals
    assert cell.calls == evals
    deq.eval()(x.detach())  # eval mode alone does not turn gradients off
    assert cell.calls == 2 * evals + more(evals)
    cell.calls = 0
    z = deq(x)
    assert cell.calls == evals + more(evals)
    z.sum().backward()
    assert cell.calls == evals + more(evals)  # the backward solve reads the tape


def test_inference_mode_evaluates_no_tape():
    cell, x = Calls(dense()), inputs().detach()
    deq = layer(cell)
    with torch.inference_mode():
        z = deq(x)
    assert cell.calls == deq.last_forward.num_evals and z.is_inference()
    assert torch.equal(deq(x), z)


def test_on_step_sees_every_evaluation_and_should_stop_ends_both_solves():
    cell, x, seen = Calls(dense()), inputs(), []
    deq = layer(cell)
    deq.on_step = lambda step: seen.append((step.evaluation, step.z().clone()))
    deq.should_stop = lambda: len(seen) == 3
    z = deq(x)
    assert [number for number, _ in seen] == [1, 2, 3] and cell.calls == 4
    assert (deq.last_forward.status == int(Status.CANCELLED)).all()
    assert any(torch.equal(point[0], z[0]) for _, point in seen)
    with pytest.warns(AdjointWarning):
        z.sum().backward()
    assert deq.last_adjoint.num_evals == 0 and len(seen) == 3
    assert torch.isfinite(x.grad).all() and x.grad.any()


def test_change_counts_from_the_next_call_on_and_all_or_nothing():
    deq, x = layer(dense()), inputs()
    deq(x)
    most = deq.last_forward.num_evals
    deq.change(rtol=1e-2, method=Picard(), gradient="unrolled")
    deq(x)
    assert deq.last_forward.num_evals < most
    before = deq.knobs
    for knobs in ({"rtol": -1.0}, {"max_iter": 0}, {"methd": Picard()}, {"gradient": "imlicit"}):
        with pytest.raises(KnobError):
            deq.change(max_iter=3, **knobs) if "max_iter" not in knobs else deq.change(**knobs)
        assert deq.knobs is before


def test_what_one_gradient_needs_of_the_method_does_not_stay():
    deq = layer(dense(), "unrolled", method=Anderson())
    assert deq.knobs.method == Anderson()
    deq.change(gradient="implicit")
    assert deq.knobs.method.fallback


def test_the_method_of_the_forward_and_the_backward_solve_may_differ():
    x = inputs()
    deq = layer(dense(), method=Broyden(), adjoint_method=Picard(), adjoint_rtol=1e-3)
    deq(x).sum().backward()
    assert deq.last_forward.card.spec["method"]["name"] == "broyden"
    assert deq.last_adjoint.card.spec["method"]["name"] == "picard"
    assert deq.last_adjoint.card.spec["rtol"] == 1e-3
    assert deq.last_adjoint.card.spec["max_iter"] == deq.knobs.max_iter


# refused before any evaluation


def refused(x, z0=None, match=None, cell=None, **knobs):
    cell = Calls(dense()) if cell is None else cell
    with pytest.raises(KnobError, match=match) as caught:
        DEQ(cell, **knobs)(x, z0)
    assert not getattr(cell, "calls", 0)
    return str(caught.value)


@pytest.mark.parametrize(
    ("knobs", "match"),
    [
        ({"rtoll": 1e-3}, "rtoll.*rtol"), ({"rtol": -1.0}, r"rtol.*-1\.0.*0 to 1"),
        ({"max_iter": 0}, "max_iter.*0.*at least 1|max_iter.*0.*1 to"),
        ({"adjoint_rtol": 2.0}, r"adjoint_rtol.*2\.0.*0 to 1"),
        ({"adjoint_max_iter": 1.5}, r"adjoint_max_iter.*1\.5"),
        ({"gradient": "imlicit"}, "imlicit.*jacobian_free.*did you mean 'implicit'"),
        ({"gradient": None}, "gradient.*None.*default is 'implicit'"),
        ({"gradient": Implicit}, "gradient"),
        ({"method": "anderson"}, "method.*anderson"), ({"warm_start": 1}, "warm_start.*1"),
        ({"method": Picard(), "gradient": "shine"}, "shine.*Picard.*restart='never'"),
        ({"method": Anderson(least_squares="residuals"), "gradient": "shine"}, "shine"),
        ({"method": Anderson(restart="deflated"), "gradient": "unrolled"}, "unrolled.*deflated"),
        ({"method": Broyden(), "gradient": "unrolled"}, "unrolled.*Broyden.*implicit"),
        ({"compact": True, "gradient": "unrolled"}, "unrolled.*compact.*False"),
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_knob_is_refused_with_the_remedy(knobs, match):
    refused(inputs(), match=match, **knobs)


@pytest.mark.parametrize(
    ("z0", "match"),
    [
        (torch.zeros(2, 5).double(), r"\(2, 5\).*\(2, 4\).*leave it out"),
        (torch.zeros(3, 4).double(), r"\(3, 4\).*\(2, 4\)"),
        ((torch.zeros(2, 4).double(),), r"\(\(2, 4\),\).*\(2, 4\)"),
        (torch.full((2, 4), torch.nan).double(), "NaN or infinity"),
        (torch.zeros(2, 4, dtype=torch.int64), "int64"),
        (np.zeros((2, 4)), "NumPy.*from_numpy"),
        ([1.0], "torch.Tensor"), (0.0, "torch.Tensor"), ((), "at least one"),
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_start_is_refused(z0, match):
    refused(inputs(), z0, match)


def test_a_start_of_named_states_may_have_another_order_but_no_other_names():
    cell, x = Named(), inputs()
    start = cell.initial_state(x)
    z = layer(cell)(x, {"b": start["b"], "a": start["a"]})
    assert list(z) == ["b", "a"]
    with pytest.raises(KnobError, match=r"c: .*b: "):
        layer(cell)(x, {"a": start["a"], "c": start["b"]})


@pytest.mark.parametrize(
    "x", [(torch.ones(2, 3),), {"a": torch.ones(2, 3)}, torch.ones(2, 3, dtype=torch.int64), None,
          torch.tensor(1.0)], ids=str
)  # fmt: skip
def test_an_input_that_zeros_cannot_be_like_needs_a_start(x):
    calls = []
    message = refused(x, cell=lambda z, x: calls.append(1) or z)
    assert "needs a start" in message and "z0" in message and "initial_state" in message
    assert not calls


def test_a_cell_that_cannot_be_called_is_refused():
    with pytest.raises(KnobError, match="cell = 3 is not callable.*cell\\(z, x\\)"):
        DEQ(3)


# a sample on its own


def test_samples_do_not_see_each_other():
    cell, x = dense(), spread()
    deq = layer(cell, rtol=1e-6)
    z = deq(x)
    for k in range(len(x)):
        alone = layer(cell, rtol=1e-6)(x[k : k + 1])
        torch.testing.assert_close(alone, z[k : k + 1], rtol=1e-8, atol=1e-10)


def test_compaction_evaluates_fewer_samples_for_the_same_answers_and_gradients():
    found = []
    for compact in (False, True):
        cell, x = Calls(Rated()), rated()
        deq = layer(cell, method=Picard(), rtol=1e-8, compact=compact)
        z = deq(x)
        forward = cell.samples
        slopes = gradients(z.square().sum(), x, *cell.parameters())
        found.append((forward, z.detach(), slopes, deq.last_forward, deq.last_adjoint))
    (whole, z, slopes, *_), (part, z_part, slopes_part, forward, adjoint) = found
    assert part < 0.8 * whole
    assert forward.diagnostics["compactions"] and adjoint.diagnostics["compactions"]
    torch.testing.assert_close(z_part, z, rtol=1e-7, atol=1e-12)
    for one, other in zip(slopes_part, slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name != "unrolled"])
def test_every_gradient_but_unrolled_compacts(name):
    cell, x = Rated(), rated()
    knobs = {"method": SLIDING, "rtol": 1e-9}
    slopes = [
        gradients(layer(cell, name, compact=compact, **knobs)(x).square().sum(), x)[0]
        for compact in (False, True)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-10)


def test_a_compacted_solve_tapes_its_last_evaluation_and_makes_no_other(monkeypatch):
    cell, x = Calls(Rated()), rated()
    deq = layer(cell, method=Picard(), rtol=1e-8, compact=True)
    loss = deq(x).square().sum()
    assert cell.calls == deq.last_forward.num_evals  # none more for the tape
    products = count_products(monkeypatch)
    kept = gradients(loss, x, *cell.parameters())
    assert len(products) == deq.last_adjoint.num_evals  # none more for df/dp

    monkeypatch.setattr("torch.equal", lambda one, other: False)
    again = gradients(deq(x).square().sum(), x, *cell.parameters())
    assert len(products) == 2 * deq.last_adjoint.num_evals + 1
    for one, other in zip(kept, again, strict=True):
        assert (one == other).all()


def count_products(monkeypatch):
    """One entry for each backward pass through the cell."""
    made, gradients_of = [], Tape.gradients
    monkeypatch.setattr(
        Tape, "gradients", lambda *given, **knobs: made.append(1) or gradients_of(*given, **knobs)
    )
    return made


def test_compaction_needs_a_row_for_each_sample_in_every_tensor_of_the_input():
    calls = []

    def cell(z, x):
        calls.append(1)
        return 0.5 * z + x[0] @ x[1]

    x, z0 = (torch.ones(4, 3), torch.ones(3, 3)), torch.zeros(4, 3)
    DEQ(cell)(x, z0)
    calls.clear()
    with pytest.raises(KnobError, match=r"compact = True.*\(3, 3\) in a batch of 4.*hold shared"):
        DEQ(cell, compact=True)(x, z0)
    assert not calls


def test_shine_survives_a_compacted_solve_that_was_stopped():
    cell, x = Rated(), rated()
    deq = layer(cell, "shine", method=SLIDING, compact=True)
    few = []
    deq.on_step = lambda step: few.append(int((step.status < 0).sum()) < 8)
    deq.should_stop = lambda: sum(few) > 1
    z = deq(x)
    assert deq.last_forward.diagnostics["compactions"]
    deq.should_stop = None
    assert torch.isfinite(gradients(z.sum(), x)[0]).all()


# warm start


def evaluations(deq, batches):
    counts = []
    for x in batches:
        deq(x).sum().backward()
        counts.append(deq.last_forward.num_evals)
    return counts


def test_a_warm_start_is_off_by_default_and_in_eval_mode():
    x = inputs()
    for deq in (layer(dense()), layer(dense(), warm_start=True).eval()):
        assert len(set(evaluations(deq, [x] * 4))) == 1
    assert "nothing yet" in deq.warm.note


def test_a_warm_start_saves_evaluations_where_a_batch_comes_again():
    deq, x = layer(dense(scale=0.95), warm_start=True, rtol=1e-6), inputs(8)
    counts = evaluations(deq, [x] * 30)
    assert counts[0] > 5 and sum(count == 1 for count in counts) > 15
    assert deq.warm.note.startswith("Starts from the last states; evaluations a solve from")
    assert "own start: " in deq.warm.note and "mean" in deq.warm.note
    cold = layer(dense(scale=0.95), rtol=1e-6)(x)
    torch.testing.assert_close(deq(x), cold, rtol=1e-5, atol=1e-6)


def test_a_warm_start_takes_the_mean_where_samples_are_others_with_much_in_common():
    deq = layer(dense(scale=0.95), warm_start=True, rtol=1e-3)
    common = 3 + torch.arange(3.0).double()
    evaluations(deq, [common + 0.1 * inputs(8, seed=k).detach() for k in range(40)])
    assert deq.warm.note.startswith("Starts from the mean of the last states")
    own, mean = (deq.warm.evals[start] for start in (COLD, MEAN))
    assert mean < 0.9 * own


def test_a_warm_start_switches_itself_off_where_it_does_not_help():
    deq = layer(dense(scale=0.5), warm_start=True, rtol=1e-6)
    # the equilibria of each batch are the opposite of those of the batch before
    batches = [sign * 3 * inputs(8, seed=3).detach().abs() for sign in (1, -1) * 20]
    counts = evaluations(deq, batches)
    cold = evaluations(layer(dense(scale=0.5), rtol=1e-6), batches)
    assert sum(a == b for a, b in zip(counts, cold, strict=True)) >= 28
    assert deq.warm.note.startswith("Starts from the cell's own start")


def test_a_warm_start_follows_a_change_of_batch_size_shape_and_type():
    cell = nn.Identity()
    deq = DEQ(lambda z, x: 0.5 * z + x + 0 * cell(z), warm_start=True, rtol=1e-4)
    for shape, dtype in (((4, 3), torch.float32), ((2, 3), torch.float32), ((2, 5), torch.float32),
                         ((2, 5), torch.float64)):  # fmt: skip
        for _ in range(10):
            x = torch.ones(shape, dtype=dtype)
            torch.testing.assert_close(deq(x), 2 * x, rtol=1e-3, atol=0)
    broken = torch.full((2, 5), torch.nan, dtype=torch.float64)
    deq(broken)
    for _ in range(10):
        torch.testing.assert_close(deq(x), 2 * x, rtol=1e-3, atol=0)


# cells of all kinds


def test_a_cell_that_returns_its_state_is_at_its_equilibrium_at_once():
    z0 = torch.ones(2, 3)
    for name in GRADIENTS:
        deq = DEQ(lambda z, x: z, gradient=name)
        z = deq(torch.ones(2, 3), z0)
        assert torch.equal(z, z0) and deq.last_forward.num_evals == 1
        assert z.data_ptr() != z0.data_ptr()


def test_a_cell_that_returns_views_of_its_state():
    def swap(z, x):
        return {"a": z["b"], "b": 0.5 * z["a"].view(2, 3) + x}

    x = inputs()
    z = layer(swap, method=Picard())(x, {"a": torch.zeros(2, 3).double(), "b": x.detach()})
    torch.testing.assert_close(z["a"], 2 * x, rtol=1e-9, atol=0)
    (slope,) = gradients(z["b"].sum(), x)
    torch.testing.assert_close(slope, torch.full_like(slope, 2.0))


def test_a_cell_that_transposes():
    def turned(z, x):
        return 0.5 * z.transpose(1, 2) + x

    x = torch.arange(8.0).double().view(2, 2, 2).requires_grad_()
    z = layer(turned)(x)
    torch.testing.assert_close(z, (4 * x + 2 * x.transpose(1, 2)) / 3, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(layer(turned), (x,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_cell_that_returns_another_type_keeps_the_type_of_the_state(dtype):
    z = DEQ(lambda z, x: (0.5 * z + x).to(dtype))(torch.ones(2, 3, requires_grad=True))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, torch.full_like(z, 2.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("value", [torch.ones(2, 3, dtype=torch.int64),
                                   torch.ones(2, 3, dtype=torch.complex64)], ids=str)  # fmt: skip
def test_a_cell_that_returns_no_real_numbers_is_refused(value):
    with pytest.raises(ValueError, match="f changed the dtype"):
        DEQ(lambda z, x: value)(torch.ones(2, 3))


def test_a_cell_that_changes_its_state_in_place_is_refused():
    with pytest.raises(ValueError, match="in place.*clone"):
        DEQ(lambda z, x: z.mul_(0.5).add(x))(inputs())
    with pytest.raises(ValueError, match="in place.*clone"):
        DEQ(lambda z, x: (z[0].mul_(0.5) + x, z[1]))(inputs(), (torch.ones(2, 3),) * 2)


def test_a_cell_that_changes_its_input_in_place_is_refused():
    with pytest.raises(ValueError, match="input x in place.*x.clone"):
        DEQ(lambda z, x: 0.5 * z + x.mul_(0.9), max_iter=3)(inputs().detach())


@every_gradient
def test_a_cell_may_work_in_place_on_what_is_its_own(name):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = dense()

        def forward(self, z, x):
            inner = self.cell.state(z)
            inner += self.cell.input(x)
            return inner.tanh_()

        def initial_state(self, x):
            return self.cell.initial_state(x)

    cell, x = InPlace(), inputs()
    ours = gradients(layer(cell, name, method=SLIDING)(x).square().sum(), x, *cell.parameters())
    plain = layer(cell.cell, name, method=SLIDING)(x)
    theirs = gradients(plain.square().sum(), x, *cell.parameters())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


class Normed(nn.Module):
    """A cell with batch norm inside: in training its samples see each other."""

    def __init__(self):
        super().__init__()
        self.cell, self.norm = dense(scale=0.9), nn.BatchNorm1d(4).double()

    def forward(self, z, x):
        return 0.9 * self.norm(self.cell(z, x)).tanh()

    def initial_state(self, x):
        return self.cell.initial_state(x)


@every_gradient
def test_batch_norm_inside_the_cell_behaves_in_eval_mode(name):
    cell, x = Normed(), spread()
    with torch.no_grad():  # running statistics of something
        for _ in range(20):
            cell(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double(), x)
    cell.eval()
    deq = layer(cell, name, method=SLIDING)
    assert torch.isfinite(gradients(deq(x).sum(), x)[0]).all()
    assert bool(deq.last_forward.converged.all())


def test_batch_norm_inside_the_cell_is_refused_where_samples_move_each_other():
    cell, x = Normed(), spread()
    with pytest.raises(RuntimeError, match="another value at the same point.*group norm.*eval"):
        layer(cell, rtol=0.1, method=Picard())(x)


def test_spectral_norm_in_training_is_one_map_for_a_call_and_its_gradient():
    cell, x = dense(), inputs()
    with torch.no_grad():
        cell.state.weight.mul_(2)
    parametrizations.spectral_norm(cell.state, n_power_iterations=1)
    for compact in (False, True):
        deq = layer(cell, "implicit", compact=compact)
        z = deq(x)
        (slope,) = gradients(z.square().sum(), x)
        assert torch.isfinite(slope).all() and bool(deq.last_adjoint.converged.all())


def test_a_compacted_backward_solve_that_would_see_other_weights_is_refused():
    cell, x = Rated(), rated()
    parametrizations.spectral_norm(cell.cell.state, n_power_iterations=1)
    with torch.no_grad():  # as after a large step: the power iteration is not done
        weight = cell.cell.state.parametrizations.weight.original
        weight.copy_(torch.randn(4, 4, generator=torch.Generator().manual_seed(5)))
    knobs = {"compact": True, "method": Picard(), "rtol": 1e-8}
    z = layer(cell, **knobs)(x)
    with pytest.raises(RuntimeError, match="another value.*backward pass.*Spectral norm"):
        z.sum().backward()
    cell.eval()
    deq = layer(cell, **knobs)
    deq(x).sum().backward()
    assert deq.last_adjoint.diagnostics["compactions"]


def test_the_spectrum_is_that_of_the_map_that_was_solved():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.dropout = dense(6, scale=0.8), VariationalDropout(0.5)

        def forward(self, z, x):
            return self.cell(self.dropout(z), x)

        def initial_state(self, x):
            return self.cell.initial_state(x)

    torch.manual_seed(0)
    cell, x = Dropped(), inputs(3)
    deq = layer(cell)
    found = deq.spectrum(x).spectral_radius
    z = deq.last_forward.z
    # the masks of that solve are still there
    torch.testing.assert_close(cell(z, x).detach(), z, rtol=1e-9, atol=1e-11)
    jacobian = torch.func.jacrev(lambda z: cell(z, x).sum(0))(z).transpose(0, 1)  # (B, n, n)
    true = torch.linalg.eigvals(jacobian).abs().amax(1)
    torch.testing.assert_close(found.double(), true.detach(), rtol=1e-4, atol=1e-6)


def test_results_are_not_copied_and_tallies_begin_anew():
    cell, x = dense(), inputs()
    deq = layer(cell, warm_start=True)
    deq.on_step = lambda step: None
    deq(x).sum().backward()
    assert deq.tally.forward == 2 and deq.last_adjoint is not None
    twin = copy.deepcopy(deq)
    assert twin.last_forward is None and twin.last_adjoint is None and twin.on_step is None
    assert twin.tally.forward == 0 and twin.knobs == deq.knobs
    with torch.no_grad():
        twin.cell.state.weight.zero_()
    assert deq.cell.state.weight.abs().min() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(copy.copy(deq).eval()(x), deq.eval()(x))


def test_print_shows_the_knobs_that_matter():
    text = repr(layer(dense(), "phantom"))
    assert "rtol=1e-12" in text and "max_iter=400" in text and "phantom" in text
    assert "DenseCell" in text
