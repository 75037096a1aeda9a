"""Handwritten digits, 8x8 pixels, from scikit-learn's copy of the UCI test set (1797 images)."""

from __future__ import annotations

import torch
from torch import Tensor

from andersonn_core.data.base import ImageSet

HELD_OUT = 360
SPLIT_SEED = 0  # one split for every training seed: test accuracies compare
BRIGHTEST = 16.0  # pixels are counts 0..16 of ink in 4x4 blocks


def load_digits() -> ImageSet:
    """Load the digits and split them, stratified by label, the same way on every call.

    Thirteen people wrote them and both parts have digits of each (Alpaydin and Kaynak, UCI Machine
    Learning Repository, 1998), so a test accuracy says nothing about a new hand.
    """
    from sklearn.datasets import load_digits as bundled_digits  # optional dependency
    from sklearn.model_selection import train_test_split

    pixels, labels = bundled_digits(return_X_y=True)
    train_pixels, test_pixels, train_labels, test_labels = train_test_split(
        pixels, labels, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    return ImageSet(
        name="digits",
        label="Handwritten digits",
        summary="Handwritten digits of 8 x 8 pixels, scikit-learn's copy of a UCI data set.",
        classes=tuple("0123456789"),
        train_images=_images(torch.from_numpy(train_pixels)),
        train_labels=torch.from_numpy(train_labels).long(),
        test_images=_images(torch.from_numpy(test_pixels)),
        test_labels=torch.from_numpy(test_labels).long(),
    )


def _images(pixels: Tensor) -> Tensor:  # (N, 64) -> (N, 1, 8, 8)
    return (pixels / BRIGHTEST).float().reshape(-1, 1, 8, 8)
