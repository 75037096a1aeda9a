"""Handwritten digits, 8x8 pixels, from scikit-learn's copy of the UCI test set (1797 images)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HELD_OUT = 360
SPLIT_SEED = 0  # one split for every training seed: held-out accuracies compare
BRIGHTEST = 16.0  # pixels are counts 0..16 of ink in 4x4 blocks


@dataclass(frozen=True)
class Digits:
    """Images in [0, 1] with their labels 0..9, in a training part and a held-out part."""

    train_images: Tensor  # (1437, 1, 8, 8) float32
    train_labels: Tensor  # (1437,) int64
    held_out_images: Tensor  # (360, 1, 8, 8) float32
    held_out_labels: Tensor  # (360,) int64


def load_digits() -> Digits:
    """Load the digits and split them, stratified by label, the same way on every call."""
    from sklearn.datasets import load_digits as bundled_digits  # optional dependency
    from sklearn.model_selection import train_test_split

    pixels, labels = bundled_digits(return_X_y=True)
    train_pixels, held_out_pixels, train_labels, held_out_labels = train_test_split(
        pixels, labels, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    return Digits(
        train_images=_images(torch.from_numpy(train_pixels)),
        train_labels=torch.from_numpy(train_labels).long(),
        held_out_images=_images(torch.from_numpy(held_out_pixels)),
        held_out_labels=torch.from_numpy(held_out_labels).long(),
    )


def _images(pixels: Tensor) -> Tensor:  # (N, 64) -> (N, 1, 8, 8)
    return (pixels / BRIGHTEST).float().reshape(-1, 1, 8, 8)
