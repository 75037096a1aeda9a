"""A bounded memory of what was computed: the least recently used goes first, counted in bytes."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

V = TypeVar("V")
OVERHEAD = 2048  # of an entry besides its arrays


def num_bytes(value: Any) -> int:
    """Bytes of all tensors and arrays in a value, its dataclasses and containers."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(num_bytes, value)) if isinstance(value, list | tuple) else 0


class Cache(Generic[V]):
    """Values by key, at most `limit` bytes of them; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._items: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """The value, now the most recently used; None if there is none."""
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value, unless it alone is over the limit, and drop the oldest until all fit."""
        size = OVERHEAD + num_bytes(value)
        with self._lock:
            self.bytes -= self._items.pop(key, (None, 0))[1]
            if size <= self.limit:
                self._items[key] = value, size
                self.bytes += size
            while self.bytes > self.limit:
                self.bytes -= self._items.popitem(last=False)[1][1]

    def get_or_make(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value, made once however many threads ask for it at the same time."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                value = self.get(key)
                if value is None:
                    value = make()
                    self.put(key, value)
                return value
        finally:
            with self._lock:
                self._making.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()
            self.bytes = 0
