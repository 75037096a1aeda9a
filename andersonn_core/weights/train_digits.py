"""Train the digits DEQ and store its weights inside the package.

`python -m andersonn_core.weights.train_digits --seed 0` takes a few minutes on one thread; the
same seed and torch version on the same kind of processor give the same weights.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, track
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy

from andersonn_core.data import ImageSet, load_digits
from andersonn_core.models import DIGITS, EquilibriumNetwork, build_model
from andersonn_core.weights import digits_path

EPOCHS = 10
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
TRAIN_RTOL = 1e-3  # looser than any demo solves: the gradient's noise hides a finer equilibrium
TRAIN_MAX_ITER = 50
COUNT_RTOL = 1e-5
COUNT_MAX_ITER = 600


def relative_residual(f_z: Tensor, z: Tensor) -> Tensor:  # (B, ...), same -> (B,)
    """Return ||f(z) - z|| / ||f(z)|| of each sample, shape (B,)."""
    tiny = torch.finfo(z.dtype).tiny
    size = vector_norm(f_z.flatten(1), dim=1)  # (B,)
    residual: Tensor = vector_norm((f_z - z).flatten(1), dim=1) / size.clamp_min(tiny)  # (B,)
    return residual


def fixed_point(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:  # (B, ...) -> (B, ...)
    """Iterate z <- f(z) until all samples of (B, ...) reach the training tolerance."""
    for _ in range(TRAIN_MAX_ITER):
        z, previous = f(z), z
        if bool((relative_residual(z, previous) <= TRAIN_RTOL).all()):
            break
    return z


def equilibrium(network: EquilibriumNetwork, x: Tensor) -> Tensor:  # (B, C, 8, 8) -> (B, C, 8, 8)
    """Return z* = f(z*, x) with the gradient of the implicit function theorem.

    One taped call of f carries the adjoint u = J^T u + dL/dz* to the parameters and to x.
    """
    with torch.no_grad():
        z = fixed_point(lambda z: network.cell(z, x), network.cell.initial_state(x))
    z_star: Tensor = network.cell(z, x)
    z_in = z.requires_grad_()
    f_in = network.cell(z_in, x.detach())  # a tape of its own: J^T is applied many times

    def adjoint(grad: Tensor) -> Tensor:  # (B, C, 8, 8) -> (B, C, 8, 8)
        def step(u: Tensor) -> Tensor:  # (B, C, 8, 8) -> (B, C, 8, 8)
            return torch.autograd.grad(f_in, z_in, u, retain_graph=True)[0] + grad

        return fixed_point(step, grad)

    z_star.register_hook(adjoint)
    return z_star


def batches(
    images: Tensor,  # (N, 1, 8, 8)
    labels: Tensor,  # (N,)
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:  # (B, 1, 8, 8), (B,)
    """Yield one epoch of shuffled batches."""
    order = torch.randperm(len(labels), generator=generator)  # (N,)
    for indices in torch.split(order, BATCH_SIZE):
        yield images[indices], labels[indices]


def train(digits: ImageSet, seed: int, epochs: int = EPOCHS) -> EquilibriumNetwork:
    """Train one network on the training part with Adam and a cosine schedule."""
    network = build_model("deq", DIGITS, seed)
    assert isinstance(network, EquilibriumNetwork)
    generator = torch.Generator().manual_seed(seed)
    num_batches = -(-len(digits.train_labels) // BATCH_SIZE)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * num_batches)
    with Progress() as progress:
        bar = progress.add_task(f"seed {seed}", total=epochs * num_batches)
        for epoch in range(epochs):
            for images, labels in batches(digits.train_images, digits.train_labels, generator):
                optimizer.zero_grad()
                z = equilibrium(network, network.encode(images))
                loss = cross_entropy(network.readout(z), labels)
                loss.backward()
                optimizer.step()
                schedule.step()
                state = f"seed {seed}, epoch {epoch + 1}, loss {loss.item():.4f}"
                progress.update(bar, advance=1, description=state)
    return network.eval()


@torch.no_grad()
def forward_counts(
    network: EquilibriumNetwork,
    images: Tensor,  # (N, 1, 8, 8)
) -> tuple[Tensor, Tensor]:  # (N, C, 8, 8), (N,)
    """Return equilibria and evaluations of forward iteration to them (limit + 1: not reached)."""
    x = network.encode(images)
    z = network.cell.initial_state(x)
    num_evals = torch.full((len(images),), COUNT_MAX_ITER + 1)
    for count in track(range(1, COUNT_MAX_ITER + 1), "measure"):
        f_z = network.cell(z, x)
        reached = relative_residual(f_z, z) <= COUNT_RTOL
        num_evals = torch.where(reached, num_evals.clamp_max(count), num_evals)
        z = f_z
        if bool((num_evals <= COUNT_MAX_ITER).all()):
            break
    return z, num_evals


def card(
    network: EquilibriumNetwork, digits: ImageSet, seed: int, seconds: float
) -> dict[str, Any]:
    """Measure the network on all held-out digits and describe how it was trained."""
    z, num_evals = forward_counts(network, digits.test_images)
    predicted = network.readout(z).argmax(dim=1)
    median, slow = np.quantile(num_evals.numpy(), [0.5, 0.9])
    return {
        "training_seed": seed,
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "train_rtol": TRAIN_RTOL,
        "train_max_iter": TRAIN_MAX_ITER,
        "train_seconds": round(seconds, 1),
        "held_out_accuracy": digits.accuracy(predicted, digits.test_labels),
        "count_rtol": COUNT_RTOL,
        "forward_evals_median": float(median),
        "forward_evals_quantile_90": float(slow),
        "forward_not_reached": int((num_evals > COUNT_MAX_ITER).sum()),
        "torch_version": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def save(network: nn.Module, description: dict[str, Any], npz: Path, card_json: Path) -> None:
    """Write the weights as float32 arrays and the card beside them."""
    arrays = {
        name: parameter.contiguous().numpy() for name, parameter in network.state_dict().items()
    }
    np.savez_compressed(npz, allow_pickle=False, **arrays)
    card_json.write_text(json.dumps(description, indent=2) + "\n")


def main() -> None:
    """Train the seed of the command line and write its two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--folder", type=Path, default=None, help="default: inside the package")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums split over threads would round differently
    digits = load_digits()
    start = time.thread_time()
    network = train(digits, arguments.seed)
    description = card(network, digits, arguments.seed, time.thread_time() - start)
    npz, card_json = digits_path(arguments.seed), digits_path(arguments.seed, ".json")
    if arguments.folder is not None:
        npz, card_json = arguments.folder / npz.name, arguments.folder / card_json.name
    save(network, description, npz, card_json)
    print(json.dumps(description, indent=2))


if __name__ == "__main__":
    main()
