"""What a trained network costs where it is used: latency of one image, throughput of many."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch

from andersonn_core.data import ImageSet
from andersonn_core.methods import MethodSpec
from andersonn_core.models import EquilibriumNetwork
from andersonn_core.timing import clock_for
from andersonn_core.training.result import TrainResult
from andersonn_core.training.spec import TrainSpec


@dataclass
class Passes:
    """Forward passes of one network by one method, a number each."""

    seconds: list[float] = field(default_factory=list)
    evals: list[int] = field(default_factory=list)


def inference(
    result: TrainResult,
    methods: Mapping[str, MethodSpec],
    images: ImageSet,
    batch_sizes: Sequence[int] = (1, 8, 64, 256),
    repeats: int = 7,
) -> pd.DataFrame:
    """Seconds of one forward pass by each method, in turn, by the size of the batch.

    Columns: method, batch_size, seconds (median of the repeats), low, high (their extremes),
    images_per_second, evals (mean of the batches). Repeats read different test images, the same for
    all methods; at batch size 1 seconds are the latency.
    """
    spec = result.spec
    network = result.network().to(spec.torch_device)
    assert isinstance(network, EquilibriumNetwork)
    rows = []
    for size in batch_sizes:
        passes = forward_passes(network, spec, methods, images, size, repeats)
        rows += [_row(name, size, passes[name].seconds, passes[name].evals) for name in methods]
    return pd.DataFrame(rows)


@torch.no_grad()
def forward_passes(
    network: EquilibriumNetwork,
    spec: TrainSpec,
    methods: Mapping[str, MethodSpec],
    images: ImageSet,
    size: int,
    repeats: int,
) -> dict[str, Passes]:
    """Passes of a network, on the spec's device and of its type, over `size` images, in turn.

    Repeats read different test images, the same for all methods; one before them warms up.
    """
    clock, passes = clock_for(spec.torch_device), {name: Passes() for name in methods}
    layers = {name: spec.replace(method=method).layer(network.cell).eval()
              for name, method in methods.items()}  # fmt: skip
    for repeat in range(-1, repeats):
        places = torch.arange(repeat * size, (repeat + 1) * size) % len(images.test_labels)
        pixels = images.test_images[places].to(spec.torch_device, spec.torch_dtype)
        for name, layer in layers.items():
            network.solve_with(layer)
            start = clock.mark()
            network(pixels)
            seconds = clock.seconds(start, clock.mark())
            solved = layer.last_forward
            if repeat >= 0 and solved is not None:
                passes[name].seconds.append(seconds)
                passes[name].evals.append(solved.num_evals)
    return passes


def _row(name: str, size: int, times: list[float], evals: list[int]) -> dict[str, float | str]:
    middle = statistics.median(times)
    return {
        "method": name, "batch_size": size, "seconds": middle, "low": min(times),
        "high": max(times), "images_per_second": size / middle, "evals": statistics.mean(evals),
    }  # fmt: skip
