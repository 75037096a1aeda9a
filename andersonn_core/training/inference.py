"""What a trained network costs where it is used: latency of one image, throughput of many."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from andersonn_core.data import ImageSet
from andersonn_core.methods import MethodSpec
from andersonn_core.models import EquilibriumNetwork
from andersonn_core.timing import clock_for
from andersonn_core.training.result import TrainResult


@torch.no_grad()
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
    clock, layers = clock_for(spec.torch_device), {}
    for name, method in methods.items():
        layers[name] = spec.replace(method=method).layer(network.cell).eval()
    rows = []
    for size in batch_sizes:
        times: dict[str, list[float]] = {name: [] for name in methods}
        evals: dict[str, list[int]] = {name: [] for name in methods}
        for repeat in range(-1, repeats):  # the first is for warming up
            places = torch.arange(repeat * size, (repeat + 1) * size) % len(images.test_labels)
            pixels = images.test_images[places].to(spec.torch_device, spec.torch_dtype)
            for name, layer in layers.items():
                network.solve_with(layer)
                start = clock.mark()
                network(pixels)
                seconds = clock.seconds(start, clock.mark())
                solved = layer.last_forward
                if repeat >= 0 and solved is not None:
                    times[name].append(seconds)
                    evals[name].append(solved.num_evals)
        rows += [_row(name, size, times[name], evals[name]) for name in methods]
    return pd.DataFrame(rows)


def _row(name: str, size: int, times: list[float], evals: list[int]) -> dict[str, float | str]:
    middle = statistics.median(times)
    return {
        "method": name, "batch_size": size, "seconds": middle, "low": min(times),
        "high": max(times), "images_per_second": size / middle, "evals": statistics.mean(evals),
    }  # fmt: skip
