"""How long a recording may take, and when each of its sections has to be done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")

WHOLE = "measured in full"
USED_UP = "its share of the time is used up"


@dataclass
class Share:
    """The time until which one section may begin another measurement."""

    deadline: float  # on `time.monotonic`
    ended: str = field(default=WHOLE, init=False)
    _longest: float = field(default=0.0, init=False)
    _done: int = field(default=0, init=False)

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, as long as one that takes as long as the longest so far would still fit."""
        for item in items:
            began = time.monotonic()
            if began + self._longest >= self.deadline:
                self.ended = f"stopped after {self._done} measurements: {USED_UP}"
                return
            yield item
            self._done += 1
            self._longest = max(self._longest, time.monotonic() - began)


@dataclass(frozen=True)
class Budget:
    """A start and a number of seconds; what a section leaves over is the next one's."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    def until(self, part: float) -> Share:
        """What may be measured until this part (0 to 1) of all the time has passed."""
        return Share(self.began + part * self.seconds)
