"""What a network reads of images that it does not learn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from andersonn_core.training.learner import Learner, in_parts

TEST_BATCH = 128


@dataclass(frozen=True)
class Tested:
    """Predictions and their price."""

    predicted: Tensor  # (N,) classes
    loss: float
    seconds: float
    evals: float  # mean of the batches
    unconverged: int  # samples


@torch.no_grad()
def read(learner: Learner, images: Tensor, labels: Tensor) -> Tested:  # (N, C, H, W), (N,)
    """Predict in batches of 128, in evaluation mode."""
    learner.network.eval()
    logits, evals, unconverged = [], [], 0
    start = learner.clock.mark()
    for part in in_parts(len(labels), TEST_BATCH):
        logits.append(learner.network(images[part]))
        if learner.layer is not None and (result := learner.layer.last_forward) is not None:
            evals.append(result.num_evals)
            unconverged += int((~result.converged).sum())
    all_logits = torch.cat(logits)
    loss = float(cross_entropy(all_logits, labels))
    seconds = learner.clock.seconds(start, learner.clock.mark())
    mean = sum(evals) / len(evals) if evals else 0.0
    return Tested(all_logits.argmax(1), loss, seconds, mean, unconverged)


def spectral_radii(learner: Learner, images: Tensor) -> Tensor:  # (K, C, H, W) -> (K,)
    """The spectral radius of the cell at the equilibrium of each image."""
    if learner.layer is None or not len(images):
        return torch.full((1,), torch.nan, dtype=torch.float64)
    learner.network.eval()
    with torch.no_grad():
        x = learner.network.encode(images)
    return learner.layer.spectrum(x, norm=False).spectral_radius
