"""Value iteration: what each state of a game is worth, if it is played well.

Bellman, Dynamic Programming, Princeton 1957; Puterman, Markov Decision Processes, Wiley 1994.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import multiply_rows, pad_matrix, refuse_oversize, uniform
from andersonn_core.specs import knob

ACTIONS = 4
UNEVENNESS = 8  # probabilities are such powers of even draws: a few moves are likely
MOST_WORK = 2**26  # B n^3 up to which the answer is computed: some tenths of a second
MOST_POLICIES, SETTLED = 50, 1e-14


@dataclass(frozen=True, eq=False)
class ValueMap:
    """f(v) = max_a (r_a + gamma P_a v), the same moves P for all samples, other rewards r."""

    rewards: Tensor  # (B, actions, n)
    moves_t: Tensor  # (actions, m, m) gamma P_a, transposed and padded

    def __call__(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f."""
        later = [multiply_rows(z, move_t) for move_t in self.moves_t]
        return torch.stack(later, dim=1).add_(self.rewards).amax(dim=1)

    def select(self, indices: Tensor) -> ValueMap:  # (A,)
        """The map of some samples."""
        return replace(self, rewards=self.rewards[indices])


def solve_values(rewards: Tensor, moves: Tensor) -> Tensor | None:  # (B, a, n), (a, n, n) -> (B, n)
    """The values in float64 by policy iteration; None if the policy does not settle."""
    states = torch.arange(rewards.shape[2])
    policy = rewards.argmax(dim=1)  # (B, n)
    for _ in range(MOST_POLICIES):
        gains = rewards.gather(1, policy[:, None])[:, 0]
        stays = torch.eye(len(states), dtype=moves.dtype) - moves[policy, states]
        values: Tensor = torch.linalg.solve(stays, gains)
        better, policy = (rewards + (moves @ values.T).permute(2, 0, 1)).max(dim=1)
        if float((better - values).abs().max()) <= SETTLED * float(values.abs().max()):
            return values
    return None


class ValueIteration(ProblemSpec):
    """What each state is worth if the best of four actions is taken, now and ever after.

    v = max_a (r_a + gamma P_a v),  P_a random stochastic matrices, r_a uniform in [0, 1)
    """

    name: ClassVar[str] = "value_iteration"
    label: ClassVar[str] = "Value iteration"
    summary: ClassVar[str] = (
        "What each state of a game is worth: today's reward plus the discounted worth of where "
        "the best action leads. The more the future counts, the slower forward iteration; the "
        "maximum gives the map kinks."
    )

    size: int = knob(
        200, "States of the game; each offers four actions.",
        minimum=1, maximum=1024, typical=(10, 500), symbol="n",
    )  # fmt: skip
    discount: float = knob(
        0.98, "Worth of tomorrow's reward today: forward iteration's error factor per step.",
        minimum=0.0, maximum=0.999, typical=(0.5, 0.999), symbol="gamma",
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size."""
        return self.size

    def build(self) -> Problem:
        """The map from v = 0, with its rate; its answer where policy iteration is cheap."""
        refuse_oversize(self, constants=4 * ACTIONS * self.size**2)
        moves = uniform(self.seed, ACTIONS, self.size, self.size) ** UNEVENNESS
        moves = (self.discount * moves / moves.sum(dim=2, keepdim=True)).to(self.torch_dtype)
        rewards = uniform(self.seed + 1, self.batch_size, ACTIONS, self.size).to(self.torch_dtype)
        cheap = self.batch_size * self.size**3 <= MOST_WORK
        z_star = solve_values(rewards.double(), moves.double()) if cheap else None
        moves_t = torch.stack([pad_matrix(move.T) for move in moves])
        f = ValueMap(rewards.to(self.torch_device), moves_t.to(self.torch_device))
        return Problem(
            name=self.name, f=f, z0=torch.zeros_like(f.rewards[:, 0]),
            z_star=None if z_star is None else z_star.to(f.rewards), contraction=self.discount,
        )  # fmt: skip
