"""The shape of a state: tensors of any rank, tuples or dicts of them, as rows (B, n) and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.specs import KnobError

WORKING = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
}

# devices that have no float64: what needs it is done on the CPU
WITHOUT_DOUBLE = frozenset({"mps"})


def beside_double(values: Tensor) -> Tensor:
    """The values where float64 exists: where they are, or else on the CPU."""
    return values.cpu() if values.device.type in WITHOUT_DOUBLE else values


@dataclass(frozen=True)
class StateLayout:
    """How a state of one or several tensors is laid out as rows of a (B, n) matrix."""

    keys: tuple[str, ...] | None  # of a dict; None otherwise
    single: bool  # one bare tensor
    numpy: bool
    shapes: tuple[tuple[int, ...], ...]  # with the batch dimension where batch_dims = 1
    batch: int
    batch_dims: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, z0: Any, batch_dims: int) -> StateLayout:
        """The layout of a start; raises KnobError if z0 cannot be a state."""
        leaves = [_as_tensor(leaf) for leaf in _leaves(z0)]
        _check_leaves(leaves, batch_dims)
        return cls(
            keys=tuple(z0) if isinstance(z0, dict) else None,
            single=not isinstance(z0, dict | tuple),
            numpy=isinstance(next(iter(_leaves(z0))), np.ndarray),
            shapes=tuple(tuple(leaf.shape) for leaf in leaves),
            batch=leaves[0].shape[0] if batch_dims else 1,
            batch_dims=batch_dims,
            dtype=leaves[0].dtype,
            device=leaves[0].device,
        )

    @property
    def working_dtype(self) -> torch.dtype:
        """The type that residuals and histories are computed in: float32 for bfloat16 states."""
        return WORKING[self.dtype]

    @property
    def elements(self) -> int:
        """n, the elements of one sample."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [math.prod(shape[self.batch_dims :]) for shape in self.shapes]

    def pack(self, state: Any) -> Tensor:  # -> (B, n)
        """A state as rows, in its own dtype, without its graph."""
        return self.join(*(_as_tensor(leaf) for leaf in _leaves(state)))

    def join(self, *leaves: Tensor) -> Tensor:  # -> (B, n)
        """The tensors of a state as rows; gradients flow through."""
        rows = [
            leaf.reshape(leaf.shape[0] if self.batch_dims else 1, size)
            for leaf, size in zip(leaves, self._sizes, strict=True)
        ]
        return rows[0].contiguous() if len(rows) == 1 else torch.cat(rows, dim=1)

    def unpack(self, rows: Tensor) -> Any:  # (A, n) ->
        """Rows as a state of the user's structure; A may be smaller than B."""
        # one part is no split, whose views could not be changed in place
        parts = torch.split(rows, self._sizes, dim=1) if len(self.shapes) > 1 else (rows,)
        leaves: list[Any] = [
            part.reshape((rows.shape[0], *shape[1:]) if self.batch_dims else shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        if self.numpy:
            leaves = [leaf.numpy() for leaf in leaves]
        if self.single:
            return leaves[0]
        return dict(zip(self.keys, leaves, strict=True)) if self.keys is not None else tuple(leaves)

    def ordered(self, value: Any) -> Any:
        """A state with the keys of its dict in the start's order."""
        return value if self.keys is None else {key: value[key] for key in self.keys}

    def check_value(self, value: Any, rows: int) -> None:
        """Raise TypeError or ValueError if f returned another structure, shape, dtype or device."""
        if not isinstance(value, dict if self.keys is not None else tuple) and not self.single:
            raise TypeError(
                f"f must return a {'dict' if self.keys else 'tuple'} as z0 is, not {type(value)}"
            )
        if isinstance(value, dict) and set(value) != set(self.keys or ()):
            raise ValueError(f"f must return the keys {self.keys}, not {tuple(value)}")
        leaves = [_as_tensor(leaf) for leaf in _leaves(self.ordered(value))]
        if len(leaves) != len(self.shapes):
            raise ValueError(f"f must return {len(self.shapes)} tensors, not {len(leaves)}")
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            expected = (rows, *shape[1:]) if self.batch_dims else shape
            _check_leaf(leaf, expected, self.dtype, self.device)

    def wrap(
        self, f: Callable[[Any], Any]
    ) -> Callable[[Tensor], Tensor]:  # rows (A, n) -> rows (A, n)
        """The map on rows, every value checked: it may change its mind at any evaluation.

        A NumPy map gets a copy, which it may overwrite: NumPy code often works in place, and only
        torch can tell afterwards. Under inference mode torch cannot either.
        """
        if self.single and not self.numpy and self.batch_dims == 1:
            return self._wrap_tensor(f)

        def on_rows(rows: Tensor) -> Tensor:
            """Evaluate f on rows and check what it returned."""
            version = _version(rows)
            value = f(self.unpack(rows.clone() if self.numpy else rows))
            _check_version(rows, version)
            self.check_value(value, rows.shape[0])
            return self.pack(self.ordered(value))

        return on_rows

    def _wrap_tensor(self, f: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
        """The same with few calls for one tensor: on a small map they are what a step costs."""
        inner, dtype, device = self.shapes[0][1:], self.dtype, self.device
        flat = len(inner) == 1

        def on_rows(rows: Tensor) -> Tensor:
            """Evaluate f on rows and check what it returned."""
            version, shape = _version(rows), (rows.shape[0], *inner)
            value = f(rows if flat else rows.view(shape))
            _check_version(rows, version)
            if not (
                isinstance(value, Tensor)
                and value.shape == shape
                and value.dtype == dtype
                and value.device == device
            ):
                self.check_value(value, rows.shape[0])  # raises
            plain = flat and value.is_contiguous() and not value.requires_grad
            rows_of_value: Tensor = value if plain else self.pack(value)
            return rows_of_value

        return on_rows


def _version(rows: Tensor) -> int | None:
    """Counts changes in place; under inference mode torch does not."""
    return None if rows.is_inference() else rows._version


def _check_version(rows: Tensor, before: int | None) -> None:
    if before is not None and rows._version != before:
        raise ValueError(
            "f changed its argument in place, so that its residual cannot be known: "
            "return a new tensor, e.g. start with z = z.clone()."
        )


def _leaves(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return list(state.values())
    return list(state) if isinstance(state, tuple) else [state]


def _as_tensor(leaf: Any) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf.detach()
    if isinstance(leaf, np.ndarray | np.generic):
        # torch accepts neither reversed nor read-only arrays; np.cos of a scalar is not even an
        # array.
        return torch.from_numpy(np.require(leaf, requirements=["C", "W"]))
    raise KnobError(
        "a state is a torch.Tensor or a NumPy array, or a tuple or dict of them, "
        f"not {type(leaf).__name__}. "
        "Wrap it, e.g. torch.tensor([1.0])."
    )


def _check_leaves(leaves: list[Tensor], batch_dims: int) -> None:
    if not leaves:
        raise KnobError("z0 holds no tensor: give at least one.")
    for leaf in leaves:
        if leaf.dtype not in WORKING:
            raise KnobError(
                f"z0 has dtype {leaf.dtype}: a state must be float32, float64 or bfloat16. "
                "Convert it, e.g. z0.float()."
            )
        if (leaf.dtype, leaf.device) != (leaves[0].dtype, leaves[0].device):
            raise KnobError(
                "the tensors of z0 differ in dtype or device: give them one dtype and one device."
            )
        if batch_dims and leaf.dim() == 0:
            raise KnobError(
                "z0 has no batch dimension: pass batch_dims=0 to treat it as one sample."
            )
        if batch_dims and leaf.shape[0] != leaves[0].shape[0]:
            raise KnobError(
                "the tensors of z0 differ in their first dimension, the batch: "
                "make it equal or pass batch_dims=0."
            )
        if not bool(torch.isfinite(leaf).all()):
            raise KnobError("z0 holds NaN or infinity: start from finite numbers.")


def _check_leaf(
    leaf: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    for what, seen, expected in (
        ("shape", tuple(leaf.shape), shape),
        ("dtype", leaf.dtype, dtype),
        ("device", leaf.device, device),
    ):
        if seen != expected:
            raise ValueError(
                f"f changed the {what} of its argument from {expected} to {seen}: "
                "a fixed-point map keeps it."
            )
