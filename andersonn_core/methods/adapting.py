"""window="auto" and mixing="auto": heuristics that learn from how steps kept their promise.

Measured on the table of `make bench-restarts` with restart="full": window="auto" takes 0.96 times
the evaluations of window 5 and 0.98 of window 10. mixing="auto" never takes more there than mixing
1, and about three quarters on maps that over- or undershoot evenly; with restart="never" it can
take more (lasso: 107 instead of 53).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.methods.steering import Sight

LARGEST = 10  # differences that window="auto" holds at most
LEAST = 2  # and that it goes down to
BROKEN = 3.0  # a residual so many times the promised one breaks the promise,
STILL_FINE = 0.5  # unless it fell below this part of the one before all the same
VOTES, NEEDED = 20, 16  # steps that are asked for the mixing, and how many must agree
CLEAR = 1.5  # that another mixing is better by this factor: smaller ones are chance
RANGE = (0.1, 2.0)  # of the mixing


@dataclass
class AutoWindow:
    """Half the window after a broken promise, one difference more after a kept one.

    On an affine map a step's residual is at most ||I - mixing (I - J)|| times what the least
    squares promised; where it is far larger, the old differences mislead.
    """

    limit: Counts  # (B,)
    decided: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, batch: int, slots: int) -> AutoWindow:
        """All slots, until a step breaks its promise."""
        return cls(np.full(batch, slots))

    def __call__(self, sight: Sight) -> Counts:  # (B,)
        """The most differences that the next step may use."""
        broken = (sight.growth > BROKEN * sight.gain) & (sight.growth > STILL_FINE)
        broken &= sight.depth > LEAST
        halved = np.maximum(sight.depth // 2, LEAST)
        wider = np.minimum(self.limit + (sight.depth > 0), sight.gamma.shape[1])
        limit = np.where(broken, halved, wider)
        if np.count_nonzero(broken):
            self._note(sight, broken, limit)
        self.limit = limit
        return limit

    def _note(self, sight: Sight, broken: Flags, limit: Counts) -> None:
        with np.errstate(divide="ignore"):  # a promise of nothing
            off = float(np.median((sight.growth / sight.gain)[broken]))
        fewer = int(np.median(limit[broken]))
        self.decided.append(
            f"evaluation {sight.evaluation}, {_who(broken)}: window {fewer} instead of "
            f"{int(np.median(sight.depth[broken]))}: the residual is {off:.2g} times the promised "
            "one, old differences mislead"
        )

    def notes(self) -> tuple[str, ...]:
        """Each halving as a sentence."""
        return tuple(self.decided)

    def select(self, places: Counts) -> AutoWindow:  # (A,)
        """The windows of some samples."""
        return AutoWindow(self.limit[places], self.decided)


@dataclass
class AutoMixing:
    """The mixing that would have been the best, once nearly all of the last steps ask for another.

    After each step the best mixing for it is known (`Sight.best_mixing`). It jumps about where the
    map is not affine, and following it at every step was worse than mixing 1 on eleven of seventeen
    problems: hence the vote.
    """

    level: Floats  # (B,) the mixing now
    votes: Floats  # (B, VOTES) logarithms of the last steps' best; NaN: none yet
    decided: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, batch: int) -> AutoMixing:
        """Undamped, until steps ask for another mixing."""
        return cls(np.ones(batch), np.full((batch, VOTES), np.nan))

    def __call__(self, sight: Sight) -> Floats:  # (B,)
        """The mixing of this step."""
        newest = np.log(np.clip(sight.best_mixing, RANGE[0] / 2, 2 * RANGE[1]))
        self.votes = np.concatenate([newest[:, None], self.votes[:, :-1]], 1)
        relative = self.votes - np.log(self.level)[:, None]
        less, more = (
            np.count_nonzero(sign * relative > np.log(CLEAR), axis=1) >= NEEDED for sign in (-1, 1)
        )
        change = less | more
        if np.count_nonzero(change):
            self._follow(sight, change)
        return self.level.copy()

    def _follow(self, sight: Sight, change: Flags) -> None:  # (B,)
        before = self.level[change]
        asked = np.exp(np.nanmedian(self.votes[change], axis=1))
        self.level[change] = np.clip(asked, *RANGE)
        self.votes[change] = np.nan
        self.decided.append(
            f"evaluation {sight.evaluation}, {_who(change)}: mixing "
            f"{np.median(self.level[change]):.2g} instead of {np.median(before):.2g}: at least "
            f"{NEEDED} of {VOTES} steps would have left less with it"
        )

    def notes(self) -> tuple[str, ...]:
        """Each change as a sentence."""
        return tuple(self.decided)

    def select(self, places: Counts) -> AutoMixing:  # (A,)
        """The mixings of some samples."""
        return AutoMixing(self.level[places], self.votes[places], self.decided)


def _who(flags: Flags) -> str:  # (B,)
    return f"{np.count_nonzero(flags)} of {len(flags)} samples"
