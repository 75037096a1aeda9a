"""Floating-point operations and bytes of one evaluation of a map, as torch carries it out.

    flops   2 a multiply-add in products of matrices and vectors, in convolutions and norms (torch's
            own formulas where it has one); 1 an element of the result in elementwise operations,
            exp and tanh among them; 1 an element read in other reductions; none in copies
    bytes   what each operation reads and writes, an element of memory once, but in batched products
            once a sample; none for a view

Not counted: what caches save between two operations, the temporaries within one, and whatever
happens outside of torch. A map that leaves torch, for NumPy or compiled code, has no count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
# Multiply-adds for which torch has no formula, one for each element of this argument.
_MULTIPLY_ADDS: dict[Any, int] = {
    _aten.mv: 0, _aten.addmv: 1, _aten.dot: 0, _aten.vdot: 0, _aten.linalg_vector_norm: 0,
}  # fmt: skip
_REDUCTIONS = set(
    "sum mean amax amin max min prod any all argmax argmin logsumexp cumsum cumprod std var "
    "var_mean _softmax _log_softmax native_layer_norm native_group_norm avg_pool2d "
    "max_pool2d_with_indices".split()
)
_MOVES = set(
    "copy clone _to_copy cat stack index gather index_select index_put scatter index_copy "
    "embedding constant_pad_nd roll flip repeat masked_fill select_scatter slice_scatter fill zero "
    "zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full arange "
    "scalar_tensor _local_scalar_dense".split()
)
_ALLOCATIONS = set("empty empty_like new_empty empty_strided new_empty_strided".split())
_UNREAD = set(  # they look at the shape of their first argument only, or overwrite it
    "copy_ fill_ zero_ zeros_like ones_like full_like new_zeros new_ones new_full".split()
)
_GATHERS = set("index gather index_select embedding".split())  # read as much as they write
_SCATTERS = set(  # in place: touch as much as their last argument holds
    "index_put_ scatter_ index_copy_ scatter_add_ index_add_".split()
)
_BATCHED = {"bmm", "baddbmm"}  # read a matrix that all samples share for every one of them
_LEAVING: dict[Any, str] = {
    Tensor.numpy: "NumPy", Tensor.__array__: "NumPy", Tensor.__dlpack__: "DLPack",
    Tensor.tolist: "Tensor.tolist", Tensor.data_ptr: "Tensor.data_ptr",
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What something computes and moves; a number that cannot be known is None.

    `unseen` names what hides it: NumPy, an operation without a formula.
    """

    flops: int | None
    bytes: int | None  # read and written
    footprint: int | None  # bytes of distinct memory: what a cache must hold to serve it
    calls: int  # operations of torch that read or write
    unseen: tuple[str, ...] = ()

    @property
    def intensity(self) -> float:
        """Flops per byte; NaN where one is not known."""
        if self.flops is None or not self.bytes:
            return math.nan
        return self.flops / self.bytes


@torch.no_grad()
def count_work(f: Callable[[Any], Any], z: Any) -> Work:  # z (B, ...) or what else f takes
    """Evaluate f(z) once and count its work; the module says what is counted."""
    counter, exits = Counter(), _Exits()
    counter.storages |= {_storage(leaf) for leaf in _tensors(z)}
    with exits, counter:
        value = f(z)
    outside = exits.names + counter.sparse
    if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
        outside.append("NumPy")
    written = (not leaf.numel() or _storage(leaf) in counter.storages for leaf in _tensors(value))
    if not outside and not all(written):
        outside.append("a result that no operation of torch has written")
    if outside:
        return Work(None, None, None, counter.calls, tuple(dict.fromkeys(outside)))
    unknown = tuple(dict.fromkeys(counter.unknown))
    flops = None if unknown else counter.flops
    return Work(flops, counter.bytes, counter.footprint, counter.calls, unknown)


class _Exits(TorchFunctionMode):
    """Notes where a map leaves torch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass the call on."""
        if func in _LEAVING:
            self.names.append(_LEAVING[func])
        return func(*args, **(kwargs or {}))


class Counter(TorchDispatchMode):
    """Adds up every operation that reaches a kernel while it is entered."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch's way to skip its compiler imports all of it first, which takes 1.5 s."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.bytes = self.calls = 0
        self.unknown: list[str] = []  # operations without a formula
        self.sparse: list[str] = []
        self.spans: list[tuple[int, int]] = []  # addresses, from and to
        self.storages: set[int] = set()  # of the argument and of all that was written

    @property
    def footprint(self) -> int:
        """Bytes of the distinct memory seen so far."""
        return _union(self.spans)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry the operation out and count it."""
        result = func(*args, **(kwargs or {}))
        self._add(_Operation(func, args, kwargs or {}, result))
        return result

    def _add(self, operation: _Operation) -> None:
        if any(tensor.layout is not torch.strided for tensor in operation.tensors):
            self.sparse.append("sparse tensors")
            return
        traffic = operation.traffic()
        if not traffic:
            return
        flops = operation.flops()
        if flops is None:
            self.unknown.append(operation.name)
        self.flops += flops or 0
        self.calls += 1
        self.storages |= {_storage(tensor) for tensor in operation.written()}
        for tensor, elements in traffic:
            self.bytes += elements * tensor.itemsize
            if elements:
                self.spans.append((tensor.data_ptr(), tensor.data_ptr() + _span(tensor)))


class _Operation:
    """One call of an operator: its operands by what the operator's schema says of them."""

    def __init__(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.func, self.args, self.kwargs, self.result = func, args, kwargs, result
        self.name: str = func._schema.name.removeprefix("aten::")
        self.operands = list(self._operands())
        self.results = list(_tensors(result))
        known = {_storage(tensor) for _, tensor in self.operands}
        self.made = [tensor for tensor in self.results if _storage(tensor) not in known]
        self.changed = [tensor for argument, tensor in self.operands if _is_written(argument)]

    def _operands(self) -> Iterator[tuple[Any, Tensor]]:
        for place, argument in enumerate(self.func._schema.arguments):
            given = place < len(self.args)
            value = self.args[place] if given else self.kwargs.get(argument.name)
            for tensor in _tensors(value):
                yield argument, tensor

    @property
    def tensors(self) -> list[Tensor]:
        """Operands and results."""
        return [*(tensor for _, tensor in self.operands), *self.results]

    def written(self) -> list[Tensor]:
        """What holds new numbers afterwards; nothing for a view."""
        return self.made + self.changed

    def traffic(self) -> list[tuple[Tensor, int]]:
        """Every tensor read or written, with the number of its elements that are."""
        is_view = bool(self.results) and not self.written()
        if is_view or self.name in _ALLOCATIONS:
            return []
        if self.name in _SCATTERS:
            target, *others = [tensor for _, tensor in self.operands]
            times = 2 if "add" in self.name else 1
            return [(target, others[-1].numel())] * times + _distinct(others)
        read = [tensor for argument, tensor in self.operands if not argument.is_out]
        if self.name in _UNREAD:
            read = read[1:]
        if self.name in _GATHERS:
            taken = (read[0], sum(tensor.numel() for tensor in self.made))
            return [taken, *_distinct(read[1:]), *_distinct(self.written())]
        if self.name in _BATCHED:
            return [(tensor, tensor.numel()) for tensor in read + self.written()]
        return _distinct(read) + _distinct(self.written())

    def flops(self) -> int | None:
        """None without a formula."""
        operator, name = self.func.overloadpacket, self.name.rstrip("_")
        if name in _MOVES:
            return 0
        if operator in _MULTIPLY_ADDS:
            return 2 * int(self.args[_MULTIPLY_ADDS[operator]].numel())
        if operator in flop_registry:
            return int(flop_registry[operator](*self.args, **self.kwargs, out_val=self.result))
        if torch.Tag.pointwise in self.func.tags:
            return self.results[0].numel()
        if name in _REDUCTIONS:
            return self.operands[0][1].numel()
        if self.name in _SCATTERS:
            return self.operands[-1][1].numel()
        return None


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _tensors(values: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _distinct(tensors: Iterable[Tensor]) -> list[tuple[Tensor, int]]:
    """Each tensor once, with the elements that it has in memory: z * z reads z once."""
    found = {(t.data_ptr(), t.shape, t.stride()): t for t in tensors if t.numel()}
    return [(tensor, _elements(tensor)) for tensor in found.values()]


def _elements(tensor: Tensor) -> int:
    """Those that lie in memory: an expanded dimension counts once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride)


def _span(tensor: Tensor) -> int:
    """Bytes from the first to the last element."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in sizes)) * tensor.itemsize


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def _union(spans: Iterable[tuple[int, int]]) -> int:
    """The length of a union of intervals."""
    total, end = 0, 0
    for first, last in sorted(spans):
        total += max(last - max(first, end), 0)
        end = max(end, last)
    return total
