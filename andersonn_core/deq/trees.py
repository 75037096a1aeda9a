"""Nested tuples, lists and dicts of tensors: what a cell takes beside its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of a nested structure, in order; anything else in it is passed over."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from tensors(part)
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from tensors(part)


def change(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with each tensor replaced by a function of it."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: change(part, function) for key, part in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*(change(part, function) for part in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(change(part, function) for part in tree)
    return tree
