"""PageRank: how often a reader who follows links at random comes by each page.

Page, Brin, Motwani and Winograd, The PageRank Citation Ranking, Stanford 1999.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import refuse_oversize, uniform
from andersonn_core.specs import knob

LINKS = 8  # on each page
REACH = 10  # most links go to a page at most so far away, as within a site
FAR = 0.02  # share of the links that go anywhere
LARGEST_SOLVED = 2048  # pages up to which the answer is computed: some tenths of a second
LARGEST_SPECTRUM = 128  # pages up to which all eigenvalues are computed: some hundredths
PERSONAL = 8  # readers of samples b > 0 jump to few pages: such powers of even draws


@dataclass(frozen=True, eq=False)
class PageRankMap:
    """f(z) = alpha M z + (1 - alpha) v, the same links for all samples, another v for each."""

    linking: Tensor  # (n, k) int64: the pages that link to each page; n where there are no more
    follow: float  # alpha / links on a page
    jumps: Tensor  # (B, n) (1 - alpha) v

    def __call__(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f."""
        shares = torch.nn.functional.pad(z * self.follow, (0, 1))
        come = shares.index_select(1, self.linking.flatten())
        return come.view(*z.shape, -1).sum(dim=2).add_(self.jumps)

    def select(self, indices: Tensor) -> PageRankMap:  # (A,)
        """The map of some samples."""
        return replace(self, jumps=self.jumps[indices])


def random_links(seed: int, size: int) -> Tensor:  # (n, links) int64
    """The pages that each page links to: some of the next ones on either side, a few anywhere."""
    kinds, places = uniform(seed, 2, size, LINKS)
    steps = (2 * REACH * places).long() - REACH
    near = torch.arange(size)[:, None] + steps + (steps >= 0)  # never to itself
    return torch.where(kinds < FAR, (size * places).long(), near % size)


def who_links(links: Tensor) -> Tensor:  # (n, links) -> (n, k)
    """The pages that link to each page, in order; n where there are no more."""
    size, targets = len(links), links.flatten()
    counts = torch.bincount(targets, minlength=size)
    sources = targets.argsort(stable=True) // links.shape[1]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    linking = torch.full((size, int(counts.max())), size)
    linking[targets.sort().values, torch.arange(len(targets)) - first] = sources
    return linking


def link_matrix(links: Tensor) -> Tensor:  # (n, links) -> (n, n) float64
    """M: column j holds the share of page j's links that go to each page."""
    size, num = links.shape
    matrix = torch.zeros(size, size, dtype=torch.float64)
    pages = torch.arange(size)[:, None].expand_as(links)
    return matrix.index_put_((links, pages), torch.tensor(1 / num).double(), accumulate=True)


class PageRank(ProblemSpec):
    """How often a reader comes by each page who follows a link with probability alpha, else jumps.

    f(z) = alpha M z + (1 - alpha) v,  v: where jumps go
    """

    name: ClassVar[str] = "pagerank"
    label: ClassVar[str] = "PageRank"
    summary: ClassVar[str] = (
        "How important each page of a small web is: pages get their rank from those that link to "
        "them. Most links stay near, so rank spreads slowly; the rarer the reader jumps, the "
        "longer forward iteration takes."
    )

    size: int = knob(
        1000, "Pages; each has eight links.",
        minimum=2, maximum=2**16, typical=(10, 5000), symbol="n",
    )  # fmt: skip
    following: float = knob(
        0.95, "Probability that the reader follows a link instead of jumping to a page.",
        minimum=0.0, maximum=0.999, typical=(0.5, 0.99), symbol="alpha",
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size."""
        return self.size

    def build(self) -> Problem:
        """The map from z0 = v; its answer and eigenvalues where they are cheap.

        Its largest eigenvalue is alpha, but no start whose ranks sum to 1 has an error along it.
        """
        refuse_oversize(self, constants=8 * LINKS * self.size)
        links = random_links(self.seed, self.size)
        ranks = self._preferences()
        jumps = ((1 - self.following) * ranks).to(self.torch_dtype)
        z_star, spectrum = None, None
        if self.size <= LARGEST_SOLVED:
            jacobian = self.following * link_matrix(links)
            stays = torch.eye(self.size, dtype=torch.float64) - jacobian
            z_star = torch.linalg.solve(stays, jumps.double().T).T
            spectrum = torch.linalg.eigvals(jacobian) if self.size <= LARGEST_SPECTRUM else None
        f = PageRankMap(
            who_links(links).to(self.torch_device), self.following / LINKS,
            jumps.to(self.torch_device),
        )  # fmt: skip
        return Problem(
            name=self.name, f=f, z0=ranks.to(f.jumps),
            z_star=None if z_star is None else z_star.to(f.jumps),
            contraction=self.following, spectrum=spectrum,
        )  # fmt: skip

    def _preferences(self) -> Tensor:  # (B, n) float64
        """Where readers jump to: sample 0 anywhere, the others to pages that they prefer."""
        draws = uniform(self.seed + 1, self.batch_size, self.size) ** PERSONAL
        draws[0] = 1.0
        return draws / draws.sum(dim=1, keepdim=True)
