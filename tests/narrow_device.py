"""A device that this machine lacks, played by the CPU: tensors that say `mps` and know no float64.

What Apple's GPUs refuse is refused here: float64, tensors of two devices in one operation, and
NumPy's view of the memory. So a test finds where the library would break there; speed it can't.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretended")
torch.pretended.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
PRETENDED = torch.device("pretended:0")
NO_DOUBLE = "a tensor of this device has no float64"


class Elsewhere(torch.Tensor):
    """Memory of the CPU under another device's name."""

    @staticmethod
    def __new__(cls, inner):
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(NO_DOUBLE)
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=PRETENDED, requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self, **_):
        return f"elsewhere({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return done_elsewhere(function, args, kwargs or {})


class Machine(TorchDispatchMode):
    """Makes what is asked for on the device `mps` there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return done_elsewhere(function, args, kwargs or {})


def done_elsewhere(function, args, kwargs):
    """An operation on the memory itself; its results lie where the device would have put them."""
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [isinstance(each, Elsewhere) for each in given]
    name, target = str(function), kwargs.get("device")
    if any(there) and not all(there) and "copy" not in name:
        mixed = [each for each, on in zip(given, there, strict=True) if not on and each.dim()]
        if mixed:
            raise RuntimeError(f"Expected all tensors to be on the same device: {name}")
    where = any(there) if target is None else torch.device(target).type == PRETENDED.type
    inner = tree_map(
        lambda each: each.inner if isinstance(each, Elsewhere) else each, (args, kwargs)
    )
    if target is not None and where:
        inner[1]["device"] = torch.device("cpu")
    if where and any(dtype in (torch.float64, torch.complex128) for dtype in tree_leaves(inner)
                     if isinstance(dtype, torch.dtype)):  # fmt: skip
        raise TypeError(NO_DOUBLE)
    made = function(*inner[0], **inner[1])
    if name.startswith("aten.copy_"):
        return args[0]
    if not where:
        return made
    known = {id(each.inner): each for each in given if isinstance(each, Elsewhere)}

    def placed(each):
        if not isinstance(each, torch.Tensor):
            return each
        return known[id(each)] if id(each) in known else Elsewhere(each)

    return tree_map(placed, made)


def elsewhere(values):  # as .to("mps")
    """The same values there."""
    return Elsewhere(values.detach().clone())
