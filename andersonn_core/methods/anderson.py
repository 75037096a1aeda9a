"""Anderson acceleration, type II (Anderson 1965; Walker and Ni, SIAM J. Numer. Anal. 49, 2011).

With g_k = f(z_k) - z_k and the stored differences dz_j = z_{j+1} - z_j, dg_j = g_{j+1} - g_j:

    gamma   = argmin || g_k - dG^T gamma ||_2
    z_{k+1} = z_k + mixing g_k - (dZ + mixing dG)^T gamma

On an affine map with all differences kept, z_k - dZ^T gamma is GMRES's iterate, and z_{k+1} one
forward step from it, as long as GMRES makes progress (Walker and Ni, theorem 2.2). For contractions
the residual falls at least at forward iteration's rate if the weights stay bounded (Toth and
Kelley, SIAM J. Numer. Anal. 53, 2015). A window makes it a Krylov method that is not GMRES (De
Sterck, He and Krzysik, arXiv 2109.14181); keepers.py and what it leads to say what to keep then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, Self

from numpy.typing import ArrayLike
from pydantic import model_validator
from torch import Tensor

from andersonn_core.methods.adapting import LARGEST, AutoMixing, AutoWindow
from andersonn_core.methods.base import MethodSpec, mixing_knob
from andersonn_core.methods.choosing import Choosing
from andersonn_core.methods.keeper import Keeper
from andersonn_core.methods.keepers import Newest, Slide, Slow
from andersonn_core.methods.randomizing import Draws, RandomMixing, RandomSkip, RandomWindow
from andersonn_core.methods.settings import Settings
from andersonn_core.methods.steering import Rule, Sight, Steering
from andersonn_core.methods.windowed import WindowState
from andersonn_core.sharding import Shards, elements
from andersonn_core.specs import KnobError, knob

AUTO = "auto"


class Anderson(MethodSpec):
    """Anderson acceleration of type II, one scaled and regularized problem per sample."""

    name: ClassVar[str] = "anderson"
    label: ClassVar[str] = "Anderson"

    window: int | Literal["auto"] = knob(
        5,
        "Past differences that each step combines; 0 is forward iteration; auto: up to 10, fewer "
        "where steps break their promise.",
        minimum=0, maximum=100, typical=(0, 20), symbol="m", or_word=True,
    )  # fmt: skip
    mixing: float | Literal["auto"] = mixing_knob(
        "Weight on f(z); 1 is undamped; auto: what would have been best so far.", or_word=True
    )
    regularization: float | None = knob(
        None, "Ridge on the Gram matrix scaled to unit diagonal; None: 10 rounding errors.",
        minimum=0.0, maximum=1.0, typical=(1e-12, 1e-1), symbol="lambda", log=True,
    )  # fmt: skip
    restart: Literal["full", "never", "deflated", "auto"] = knob(
        "full",
        "What is kept of a window that was used in full; full: the newest difference; never: all "
        "but the oldest difference; deflated: the slowest directions; auto: what a test of the map "
        "says.",
    )
    kept: int | None = knob(
        None, "Slow directions that a deflated restart keeps, or auto; None: half the window.",
        minimum=1, maximum=99, typical=(1, 10), symbol="k",
    )  # fmt: skip
    period: int = knob(
        1, "Extrapolate at every p-th step, plain steps between.",
        minimum=1, maximum=100, typical=(1, 10), symbol="p",
    )  # fmt: skip
    delay: int = knob(
        0, "Plain steps before the history starts.", minimum=0, maximum=10_000, typical=(0, 20)
    )
    least_squares: Literal["gram", "qr", "residuals"] = knob(
        "gram",
        "gram: scaled Gram matrix, float64 solve; qr: orthogonal factorization, slower; residuals: "
        "Gram matrix of the residuals instead of their differences, least memory traffic, for "
        "large and well-conditioned cells.",
    )
    history: Literal["state", "bfloat16"] = knob(
        "state",
        "Type in which differences are kept: the state's; or bfloat16, of float32 states on a GPU: "
        "half the memory traffic, a little less exact.",
    )
    fallback: bool = knob(
        True,
        "A sample that circles goes on with plain steps from its best iterate for a while.",
    )
    max_condition: float | None = knob(
        None,
        "Leave out the oldest differences of a step until the condition number of their scaled "
        "Gram matrix is at most this; None: no limit.",
        minimum=1.0, typical=(1e2, 1e12), symbol="kappa", log=True, none="off",
    )  # fmt: skip
    filtering: float = knob(
        0.0,
        "Leave out differences whose angle with the span of newer ones has a smaller sine.",
        minimum=0.0, maximum=1.0, typical=(0.0, 0.5),
    )  # fmt: skip
    max_growth: float | None = knob(
        None,
        "Take a step back after which the residual is more than so many times the one before; a "
        "heuristic; None: never.",
        minimum=1.0, typical=(1.0, 1e3), log=True, none="off",
    )  # fmt: skip
    max_weights: float | None = knob(
        None,
        "Take a plain step where the weights' absolute sum exceeds this; a heuristic; None: never.",
        minimum=0.0, exclusive_minimum=True, typical=(1.0, 1e6), log=True,
        none="off",
    )  # fmt: skip
    randomize: Literal["nothing", "window", "mixing", "skip"] = knob(
        "nothing",
        "What is drawn at random; window: from 1 to m for each history; mixing: half to one and a "
        "half of it at every step; skip: a quarter of the steps is plain.",
    )
    randomize_seed: int = knob(
        0, "Seed of what is drawn at random.", minimum=0, maximum=2**31 - 1, typical=(0, 20)
    )

    @model_validator(mode="after")
    def _one_decides(self) -> Self:
        for knob_name in ("window", "mixing"):
            if getattr(self, knob_name) == AUTO and self.randomize == knob_name:
                raise ValueError(
                    f"{knob_name} = 'auto' and randomize = '{knob_name}' both choose the "
                    f"{knob_name}: give a number for it, or randomize something else."
                )
        return self

    def memory_vectors(self, n: int) -> int:
        """Two rings, two residuals, two iterates, the fallback's best; signs and a probe's seven.

        A deflated restart makes what it keeps of a ring before it writes it.
        """
        steered = self.mixing == AUTO or self.randomize == "mixing"
        folded = self.directions(n) * (self.restart == "deflated")
        return 2 * self.slots(n) + 5 + 8 * (self.restart == "auto") + steered + folded

    @property
    def largest_window(self) -> int:
        """The window, or with "auto" the largest one."""
        return self.window if isinstance(self.window, int) else LARGEST

    @property
    def first_mixing(self) -> float:
        """The mixing, or the one that "auto" begins with."""
        return self.mixing if isinstance(self.mixing, float) else 1.0

    def slots(self, n: int) -> int:
        """How many differences a state of n elements has at most: more would be dependent."""
        return min(self.largest_window, n)

    def directions(self, n: int) -> int:
        """How many slow directions of a full window a state of n elements has kept."""
        size = self.slots(n)
        return max(min(self.kept or size // 2, size - 1), 0)

    def init(self, z: Tensor) -> WindowState:  # (B, n)
        """A workspace of at most n differences."""
        return self.init_shard(z, None)

    def shard_problem(self) -> str | None:
        """A factorization of columns that no rank has."""
        if self.least_squares == "qr":
            return (
                "least_squares = 'qr' needs whole columns, of which each rank has a part: use "
                "least_squares = 'gram'."
            )
        return None

    def init_shard(self, z: Tensor, shards: Shards | None) -> WindowState:  # (B, n)
        """The same; n is that of the whole state."""
        batch, n = len(z), elements(z, shards)
        settings = Settings(
            window=self.slots(n),
            mixing=self.first_mixing,
            regularization=self.regularization,
            period=self.period,
            delay=self.delay,
            least_squares=self.least_squares,
            fallback=self.fallback,
            max_condition=self.max_condition,
            filtering=self.filtering,
            max_growth=self.max_growth,
            max_weights=self.max_weights,
        )
        rules = self._rules(batch, settings.window)
        steering = Steering.of(batch, settings.window, settings.mixing, rules) if rules else None
        return WindowState.of(z, settings, self._keeper(z, shards), steering, shards)

    def step(self, state: WindowState, z: Tensor, f_z: Tensor) -> Tensor:
        """Return z + mixing g - (dZ + mixing dG)^T gamma (B, n); plain without differences."""
        return state.advance(z, f_z)

    def _keeper(self, z: Tensor, shards: Shards | None) -> Keeper:  # (B, n)
        n = elements(z, shards)
        size, kept = self.slots(n), self.directions(n)
        if self.restart == "deflated" and kept:
            return Slow(kept)
        if self.restart == "auto" and kept:
            return Choosing.of(z, size, kept, shards)
        return Slide() if self.restart == "never" else Newest()

    def _rules(self, batch: int, slots: int) -> dict[str, Rule]:
        """Who decides what is not fixed."""
        rules: dict[str, Rule] = {}
        if self.window == AUTO:
            rules["window"] = AutoWindow.of(batch, slots)
        if self.mixing == AUTO:
            rules["mixing"] = AutoMixing.of(batch)
        draws = Draws(self.randomize_seed, batch)
        if self.randomize == "window" and slots:
            rules["window"] = RandomWindow(draws)
        if self.randomize == "mixing":
            rules["mixing"] = RandomMixing(draws, self.first_mixing)
        if self.randomize == "skip":
            rules["plain"] = RandomSkip(draws)
        return rules

    def steered(
        self,
        *,
        window: Callable[[Sight], ArrayLike] | None = None,
        mixing: Callable[[Sight], ArrayLike] | None = None,
    ) -> Anderson:
        """Anderson with callbacks that choose the window or the mixing at every step.

        Each gets a `Sight` of the samples that still run (gain, weights, residuals) and returns one
        number or one per sample; a window of at most this method's own, since its memory is fixed.
        ValueError at the step at which it returns anything else.
        """
        from andersonn_core.methods.steered import SteeredAnderson

        given = {"window": window, "mixing": mixing}
        callbacks = {what: call for what, call in given.items() if call is not None}
        for what, call in callbacks.items():
            if not callable(call):
                raise KnobError(f"{what} = {call!r} is not callable: give a function of a Sight.")
        return SteeredAnderson(**dict(self)).with_callbacks(callbacks)
