"""The digits model where it learns and where it is used: forward iteration and Anderson."""

from __future__ import annotations

from collections.abc import Iterator

from andersonn_core.data import load_digits
from andersonn_core.methods import Anderson, MethodSpec, Picard
from andersonn_core.record.budget import Share
from andersonn_core.record.settings import Row, Settings, place
from andersonn_core.record.spreads import settle, spread
from andersonn_core.timing import clock_for
from andersonn_core.training.inference import forward_passes
from andersonn_core.training.spec import TrainSpec
from andersonn_core.training.trainer import Trainer
from andersonn_core.weights import load_digits_network

METHODS: dict[str, MethodSpec] = {"picard": Picard(), "anderson": Anderson()}
BATCH_SIZE, WARM_UP = 64, 3  # images in a batch of training; batches that are not counted
LATENCY = 1  # the batch size at which seconds are the latency
BATCH_SIZES = (LATENCY, 64, 256)


def digits(settings: Settings, share: Share) -> Iterator[Row]:
    """Rows of "inference" by batch size, then of "training", by device and method."""
    yield from _inference(settings, share)
    yield from _training(settings, share)


def _inference(settings: Settings, share: Share) -> Iterator[Row]:
    """Passes of a trained network over images that it has never seen."""
    images, sizes = load_digits(), settings.of(BATCH_SIZES, BATCH_SIZES[:1])
    repeats = settings.of(11, 3)
    for size, device in share.over([(size, where) for size in sizes for where in settings.devices]):
        spec = TrainSpec(device=str(device))
        network = load_digits_network(0).to(device)
        passes = forward_passes(network, spec, METHODS, images, size, repeats)
        for name, found in passes.items():
            times = spread("seconds", found.seconds)
            yield {
                "what": "inference", "method": name, "batch_size": size, **place(device),
                "repeats": repeats, "clock": clock_for(device).name, **times,
                "images_per_second": size / times["seconds"], **spread("evals", found.evals),
            }  # fmt: skip


def _training(settings: Settings, share: Share) -> Iterator[Row]:
    """Batches of the same training, all methods and devices in turn."""
    size = settings.of(BATCH_SIZE, 8)
    trainers = {
        (name, device): Trainer(
            TrainSpec(method=method, batch_size=size, device=str(device), epochs=1000)
        )
        for device in settings.devices
        for name, method in METHODS.items()
    }
    for _ in share.over(range(WARM_UP + settings.of(20, 2))):
        for (_name, device), trainer in trainers.items():
            trainer.step()
            settle(device)
    for (name, device), trainer in trainers.items():
        if trainer.at.step <= WARM_UP:
            return
        yield {"what": "training", "method": name, "batch_size": size, **place(device),
               **_batches(trainer)}  # fmt: skip


def _batches(trainer: Trainer) -> Row:
    """Seconds and evaluations a batch, those of the first batches left out."""
    result = trainer.result()
    numbers = result.batches[["seconds", "evals"]].diff().iloc[WARM_UP:]
    forward = result.batches["forward_evals"].iloc[WARM_UP:]
    return {
        "batches": len(numbers), "clock": result.clock,
        **spread("seconds", numbers["seconds"].tolist()),
        **spread("evals", numbers["evals"].tolist()),
        **spread("forward_evals", forward.tolist()),
    }  # fmt: skip
