"""Random images in CIFAR-10's shape, for measuring seconds where the real ones are not at hand."""

from __future__ import annotations

import torch

from andersonn_core.data.base import ImageSet
from andersonn_core.data.cifar10 import CLASSES, SHAPE
from andersonn_core.specs import KnobError


def synthetic_images(train: int = 2048, test: int = 512, seed: int = 0) -> ImageSet:
    """Draw uniform pixels and labels that have nothing to do with them.

    A network's seconds don't depend on what its images show, as long as the number of evaluations
    is fixed. Accuracies and counts of evaluations do: `ImageSet.accuracy` refuses this set.
    """
    for name, count in (("train", train), ("test", test)):
        if count < 1:
            raise KnobError(f"{name} = {count} images; give at least 1.")
    generator = torch.Generator().manual_seed(seed)
    return ImageSet(
        name="synthetic",
        label="synthetic (throughput only)",
        summary="Random pixels in CIFAR-10's shape with random labels, for measuring seconds only.",
        classes=CLASSES,
        train_images=torch.rand(train, *SHAPE, generator=generator),
        train_labels=torch.randint(len(CLASSES), (train,), generator=generator),
        test_images=torch.rand(test, *SHAPE, generator=generator),
        test_labels=torch.randint(len(CLASSES), (test,), generator=generator),
        synthetic=True,
    )
