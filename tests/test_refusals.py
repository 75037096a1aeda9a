"""What users do by accident, refused before a second of computing is lost."""

import math

import numpy as np
import pytest
import torch
from cases import BREAKING, Counter, Scripted, contraction, every_method

from andersonn_core import METHODS, Anderson, Broyden, KnobError, Picard, solve
from andersonn_core.problems import Affine, DigitsDEQ, Poisson

# refused before any evaluation


def refused(z0, *args, error=KnobError, **knobs):
    counter = Counter()
    with pytest.raises(error) as caught:
        solve(counter, z0, *args, **knobs)
    assert counter.calls == 0
    return str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["torch", "numpy", "tuple", "dict", "bfloat16"])
def test_a_start_that_is_not_finite_is_refused(value, kind):
    z0 = torch.ones(2, 3)
    z0[1, 2] = value
    made = {
        "torch": z0, "numpy": z0.numpy(), "tuple": (torch.ones(2, 1), z0), "dict": {"a": z0},
        "bfloat16": z0.bfloat16(),
    }  # fmt: skip
    message = refused(made[kind])
    assert "z0" in message and "NaN or infinity" in message and "finite" in message


@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float16, torch.complex64],
    ids=str,
)
def test_a_start_that_is_not_floating_point_is_refused_with_the_remedy(dtype):
    message = refused(torch.ones(2, 3, dtype=dtype))
    assert f"z0 has dtype {dtype}" in message and "float32" in message and "z0.float()" in message


def test_a_numpy_start_of_integers_is_refused():
    assert "z0 has dtype torch.int64" in refused(np.ones((2, 3), dtype=np.int64))


@pytest.mark.parametrize(
    "z0",
    [1.0, [1.0], None, "z0", {1.0}, object()],
    ids=["a number", "a list", "None", "text", "a set", "an object"],
)
def test_a_start_that_is_no_array_is_refused(z0):
    message = refused(z0)
    assert "torch.Tensor" in message and type(z0).__name__ in message


@pytest.mark.parametrize("z0", [(), {}], ids=repr)
def test_a_start_of_nothing_is_refused(z0):
    assert "at least one" in refused(z0)


def test_a_scalar_start_needs_batch_dims_zero():
    assert "batch_dims=0" in refused(torch.tensor(1.0))
    assert "batch_dims=0" in refused(np.array(1.0))


def test_parts_of_a_start_must_agree():
    assert "dtype" in refused((torch.ones(2, 3), torch.ones(2, 3).double()))
    assert "first dimension" in refused((torch.ones(2, 3), torch.ones(3, 3)))
    assert solve(lambda s: s, (torch.ones(2), torch.ones(3)), batch_dims=0).converged.item()


@pytest.mark.parametrize(
    ("knobs", "parts"),
    [
        ({"rtol": -1e-6}, ("rtol", "-1e-06", "0 to 1")),
        ({"rtol": 2.0}, ("rtol", "2.0", "0 to 1")),
        ({"rtol": math.nan}, ("rtol", "nan")),
        ({"rtol": "1e-6"}, ("rtol", "'1e-6'", "Give a number")),
        ({"rtol": True}, ("rtol", "True", "Give a number")),
        ({"rtol": None}, ("rtol", "None")),
        ({"atol": -1.0}, ("atol", "at least 0")),
        ({"atol": math.inf}, ("atol", "inf")),
        ({"max_iter": 0}, ("max_iter", "= 0", "1 to 10,000,000")),
        ({"max_iter": 10.0}, ("max_iter", "Give an integer, such as 10")),
        ({"max_iter": True}, ("max_iter", "Give an integer")),
        ({"max_iter": "10"}, ("max_iter", "Give an integer")),
        ({"batch_dims": 2}, ("batch_dims", "0 to 1")),
        ({"batch_dims": -1}, ("batch_dims", "0 to 1")),
        ({"batch_dims": True}, ("batch_dims",)),
        ({"compact": 1}, ("compact", "True or False")),
        ({"profile": "yes"}, ("profile", "True or False")),
    ],
    ids=str,
)
def test_impossible_knobs_of_a_solve_are_refused(knobs, parts):
    message = refused(torch.ones(2, 3), **knobs)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("name", ["rtoll", "tol", "window", "maxiter", "f_max_iter", "stop_mode"])
def test_unknown_knobs_of_a_solve_are_refused(name):
    assert name in refused(torch.ones(2, 3), error=TypeError, **{name: 1})


@pytest.mark.parametrize("method", [Anderson, "anderson", None, 5, Affine()], ids=repr)
def test_what_is_no_method_is_refused(method):
    message = refused(torch.ones(2, 3), method)
    assert "method" in message and ", ".join(METHODS) in message


def test_a_map_that_is_not_callable_is_refused():
    with pytest.raises(KnobError, match="not callable"):
        solve(torch.ones(2), torch.ones(2, 3))


@pytest.mark.parametrize("method", [Picard(), Anderson(window=100), Broyden(window=100)])
def test_a_solve_that_would_not_fit_the_memory_is_refused(method, monkeypatch):
    monkeypatch.setattr("andersonn_core.memory.available_bytes", lambda device: 2**20)
    message = refused(torch.zeros(64, 8192), method)
    for part in ("64 samples", "8192 elements", method.label, "GiB", "cpu", "Lower"):
        assert part in message


def test_what_fits_the_memory_depends_on_the_window(monkeypatch):
    monkeypatch.setattr("andersonn_core.memory.available_bytes", lambda device: 2**20)
    solve(torch.cos, torch.zeros(4, 1000), Anderson(window=5))
    refused(torch.zeros(4, 1000), Anderson(window=50))


@pytest.mark.parametrize(
    "spec",
    [Poisson(size=1024, batch_size=4096), DigitsDEQ(batch_size=360, dtype="float64")],
    ids=lambda spec: spec.name,
)
def test_a_problem_that_would_not_fit_the_memory_is_refused(spec, monkeypatch):
    monkeypatch.setattr("andersonn_core.memory.available_bytes", lambda device: 2**20)
    with pytest.raises(KnobError, match="GiB"):
        spec.build()


# refused at the first evaluation


@every_method
@pytest.mark.parametrize("what", BREAKING)
def test_a_map_that_does_not_keep_its_argument_s_kind_is_refused_at_once(what, method):
    case = BREAKING[what]()
    counter = Counter(case.f)
    with pytest.raises((ValueError, TypeError)) as caught:
        solve(counter, case.z0, method)
    assert counter.calls == 1
    assert caught.value.partial_result.num_evals == 0
    words = {"batch": "shape", "type": "list"}
    assert words.get(what, what) in str(caught.value)
    assert what == "type" or " from " in str(caught.value)


def test_a_map_that_changes_its_mind_later_is_refused_then():
    case = contraction()
    f = Scripted(case.f, lambda k, v: v.float() if k == 4 else v)
    with pytest.raises(ValueError, match="dtype") as caught:
        solve(f, case.z0)
    assert caught.value.partial_result.num_evals == 3


@pytest.mark.parametrize(
    ("z0", "value"),
    [
        ((torch.ones(1, 2), torch.ones(1, 2)), torch.ones(1, 2)),
        ((torch.ones(1, 2), torch.ones(1, 2)), (torch.ones(1, 2),)),
        ((torch.ones(1, 2), torch.ones(1, 2)), [torch.ones(1, 2)] * 2),
        ({"a": torch.ones(1, 2)}, {"b": torch.ones(1, 2)}),
        ({"a": torch.ones(1, 2)}, {"a": torch.ones(1, 2), "b": torch.ones(1, 2)}),
        ({"a": torch.ones(1, 2)}, (torch.ones(1, 2),)),
        (torch.ones(1, 2), (torch.ones(1, 2), torch.ones(1, 2))),
        (torch.ones(1, 2), {"a": torch.ones(1, 2)}),
        (torch.ones(1, 2), None),
        (torch.ones(1, 2), 0.5),
    ],
    ids=str,
)
def test_a_map_that_returns_another_structure_is_refused(z0, value):
    with pytest.raises((ValueError, TypeError), match="f must return|f returned|a state is"):
        solve(lambda z: value, z0)
