"""Anderson acceleration, type II (Anderson 1965; Walker and Ni, SIAM J. Numer. Anal. 49, 2011).

With g_k = f(z_k) - z_k and the stored differences dz_j = z_{j+1} - z_j, dg_j = g_{j+1} - g_j:

    gamma   = argmin || g_k - dG^T gamma ||_2
    z_{k+1} = z_k + mixing g_k - (dZ + mixing dG)^T gamma
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from andersonn_core.methods.base import MethodSpec, mixing_knob
from andersonn_core.methods.choosing import Choosing
from andersonn_core.methods.keepers import Newest, Slide, Slow
from andersonn_core.methods.windowed import Keeper, Settings, WindowState
from andersonn_core.specs import knob


class Anderson(MethodSpec):
    """Anderson acceleration of type II, one scaled and regularized problem per sample."""

    name: ClassVar[str] = "anderson"
    label: ClassVar[str] = "Anderson"

    window: int = knob(
        5, "Past differences that each step combines; 0 is forward iteration.",
        minimum=0, maximum=100, typical=(0, 20), symbol="m",
    )  # fmt: skip
    mixing: float = mixing_knob()
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
    fallback: bool = knob(
        True,
        "A sample that circles goes on with plain steps from its best iterate for a while.",
    )

    def memory_vectors(self, n: int) -> int:
        """Two rings, two residuals, two iterates, the fallback's best; signs and a probe's two."""
        return 2 * min(self.window, n) + 5 + 4 * (self.restart == "auto")

    def directions(self, n: int) -> int:
        """How many slow directions of a full window a state of n elements has kept."""
        size = min(self.window, n)
        return max(min(self.kept or size // 2, size - 1), 0)

    def init(self, z: Tensor) -> WindowState:  # (B, n)
        """A workspace of at most n differences: more would be dependent."""
        settings = Settings(
            window=self.window,
            mixing=self.mixing,
            regularization=self.regularization,
            period=self.period,
            delay=self.delay,
            least_squares=self.least_squares,
            fallback=self.fallback,
        )
        return WindowState.of(z, settings, self._keeper(z))

    def step(self, state: WindowState, z: Tensor, f_z: Tensor) -> Tensor:
        """Return z + mixing g - (dZ + mixing dG)^T gamma (B, n); plain without differences."""
        return state.advance(z, f_z)

    def _keeper(self, z: Tensor) -> Keeper:  # (B, n)
        size, kept = min(self.window, z.shape[1]), self.directions(z.shape[1])
        if self.restart == "deflated" and kept:
            return Slow(kept)
        if self.restart == "auto" and kept:
            return Choosing.of(z, size, kept)
        return Slide() if self.restart == "never" else Newest()
