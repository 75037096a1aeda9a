"""What the tests of the step on the device share: maps, a plain loop, and a watch on reads.

Fused kernels are tested by the same functions as torch's operations, in a process of their own,
since Triton decides when it is imported whether it interprets.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from andersonn_core import PROBLEMS
from andersonn_core.device import DeviceState, Rules, TorchKernels
from andersonn_core.device.interface import make_room
from andersonn_core.least_squares import default_regularization
from andersonn_core.referee import DIVERGENCE

FUSED = os.environ.get("ANDERSON_LAB_FUSED_ON")  # cpu: in Triton's interpreter, or cuda
DEVICE = torch.device(FUSED or "cpu")
BLOCK = 16


def kernels_under_test(monkeypatch):
    """Few programs and sums at once, so that there are several rounds; for a fixture."""
    with np.errstate(all="ignore"):  # the interpreter computes with NumPy
        if FUSED is None:
            yield TorchKernels()
        else:
            from andersonn_core.device import triton_kernels

            monkeypatch.setattr(triton_kernels, "WAVE", 6)
            monkeypatch.setattr(triton_kernels, "SUMS", 4)
            yield triton_kernels.TritonKernels(block=BLOCK)


def state_for(kernels, z, ring=None, **given):
    rules = Rules(**{"ridge": 1e-12, "precision": 1e-14, "rtol": 0.0, "max_iter": 99} | given)
    return DeviceState.of(z, rules, kernels.parts(z, rules.window), 8, ring)


def exact(*tensors):
    """Copies: the kernels write in place."""
    return [tensor.to("cpu", torch.float64, copy=True).numpy() for tensor in tensors]


def close(found, true, error, size=1.0):
    """Within so much of what was summed."""
    assert np.all(np.abs(exact(found)[0] - true) <= error * size), np.abs(exact(found)[0] - true)


def spread(parts, values):
    """Sums as partial sums of any sizes, where a pass would leave them: (B, parts, ...)."""
    share = torch.softmax(draw(parts, seed=3), 0)
    return (share.view(-1, *[1] * (values.dim() - 1)) * values[:, None]).to(DEVICE)


def feed(state, row, rhs, residual):
    """Put sums where `advance` would leave them, spread over its parts."""
    parts = state.products.shape[1]
    state.products.copy_(spread(parts, torch.from_numpy(np.stack([row, rhs], 1))))
    none = 0 * residual
    squares = np.stack([residual**2, 4 * residual**2, residual, none, none], 1)
    state.squares.copy_(spread(parts, torch.from_numpy(squares)))


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def affine(batch=4, n=23):
    """Contractions of different speed: samples stop at different evaluations."""
    matrix = torch.linalg.qr(draw(n, n))[0] * 0.9
    offset, factor = draw(batch, n, seed=1), torch.linspace(0.1, 1, batch, dtype=torch.float64)
    return lambda z: factor[:, None] * (z @ matrix) + offset, torch.zeros_like(offset)


def tanh(batch=3, n=17):
    matrix, offset = draw(n, n) * (1.4 / n**0.5), draw(batch, n, seed=1)
    return lambda z: torch.tanh(z @ matrix + offset), draw(batch, n, seed=2)


def broken(batch=4, n=9):
    """One sample turns NaN at evaluation 4, one diverges at 5, one is at its fixed point."""
    f, z0 = affine(batch, n)
    z0[3] = f(z0)[3]
    calls = [0]

    def g(z):
        calls[0] += 1
        values = f(z)
        if calls[0] >= 4:
            values[1, 0] = torch.nan
        if calls[0] >= 5:
            values[2] = z[2] + 1e9
        values[3] = z[3]
        return values

    return g, z0


def stubborn():
    """Three digits of 64, one of which circles: float32."""
    built, some = PROBLEMS["digits_deq"](batch_size=64).build(), torch.tensor([0, 1, 44])
    return built.f.select(some), built.z0[some]


maps = {"affine": affine, "tanh": tanh, "broken": broken}


def rules_for(z, method, *, rtol, max_iter):
    """What the driver and the method would fix for these knobs."""
    eps = torch.finfo(z.dtype).eps
    return Rules(
        window=min(method.window, z.shape[1]),
        ridge=default_regularization(z.dtype)
        if method.regularization is None
        else method.regularization,
        precision=eps,
        rtol=rtol,
        max_iter=max_iter,
        mixing=method.mixing,
        sliding=method.restart == "never",
        divergence=DIVERGENCE,
        kept=method.directions(z.shape[1]) if method.restart == "deflated" else 0,
    )


@dataclass
class Found:
    state: DeviceState
    answer: torch.Tensor


def drive(kernels, f, z0, rules, ring=None, state=None):
    """Evaluate and step in two buffers in turn, with nothing fancy."""
    if state is None:
        parts = kernels.parts(z0, rules.window)
        state = DeviceState.of(z0, rules, parts, rules.max_iter, ring)
    z, last_z = z0.clone(), torch.full_like(z0, torch.nan)
    for evaluation in range(rules.max_iter):
        plain = not rules.window or evaluation == 0
        f_z = f(z)
        if not plain:
            make_room(kernels, state)
        kernels.advance(state, z, last_z, f_z, plain)
        kernels.solve(state, plain)
        kernels.mix(state, z, last_z, f_z, last_z)
        z, last_z = last_z, z
    return Found(state, torch.where(state.newest[:, None], z, state.best))


class Operations(TorchDispatchMode):
    """Lists the operations that run, and those among them whose result the host waits for."""

    # _linalg_eigh reads on a GPU whether it converged
    WAITING = (
        "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2",
        "_linalg_eigh",
    )  # fmt: skip

    def __init__(self):
        super().__init__()
        self.names = []

    @property
    def waiting(self):
        return [name for name in self.names if name.split(".")[0] in self.WAITING]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function).removeprefix("aten."))
        return function(*args, **(kwargs or {}))


class Recorded(TorchDispatchMode):
    """Work as a CUDA graph holds it: operations on fixed memory, replayed without any Python.

    CUDA records without doing; here recording does the work, so the first replay is nothing.
    """

    def __init__(self, work):
        super().__init__()
        self.calls, self.replays = [], 0
        with self:
            work()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function).removeprefix("aten.").split(".")[0] in Operations.WAITING:
            raise RuntimeError("operation not permitted when stream is capturing")
        made = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, made))
        return made

    def __call__(self):
        self.replays += 1
        for function, args, kwargs, made in self.calls if self.replays > 1 else ():
            new = function(*args, **kwargs)
            for old, fresh in zip(tree_leaves(made), tree_leaves(new), strict=True):
                if old.data_ptr() != fresh.data_ptr():  # neither a view nor in place
                    old.copy_(fresh)
