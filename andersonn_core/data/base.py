"""Labelled images as every data set gives them, and the error that says what to do about files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from andersonn_core.specs import KnobError

SIZES = re.compile(r": [\d,]+ training and [\d,]+ test images$")


class DataError(RuntimeError):
    """A data set's files are missing, damaged or cannot be fetched; the message says what to do."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images: one part to train on, and a test part that no training may look at.

    `name` is the key in DATASETS, `label` what a person reads: it says so where the set is only a
    part of itself, or synthetic. Raises KnobError for tensors of other shapes, types or ranges.
    """

    name: str
    label: str
    summary: str  # one sentence: what the images show and where they come from
    classes: tuple[str, ...]  # what the labels 0, 1, ... mean
    train_images: Tensor  # (N, C, H, W) float32 in [0, 1]
    train_labels: Tensor  # (N,) int64
    test_images: Tensor  # (M, C, H, W) float32 in [0, 1]
    test_labels: Tensor  # (M,) int64
    synthetic: bool = False  # True: drawn at random, for measuring seconds and nothing else

    def __post_init__(self) -> None:
        """Refuse what a model or a loss would only stumble over later."""
        _check_part(f"{self.name}: train", self.train_images, self.train_labels, self.num_classes)
        _check_part(f"{self.name}: test", self.test_images, self.test_labels, self.num_classes)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            shapes = f"{tuple(self.train_images.shape)} and {tuple(self.test_images.shape)}"
            raise KnobError(f"{self.name}: images of one shape are needed in both parts: {shapes}")

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of training and test images."""
        return len(self.train_labels), len(self.test_labels)

    @cached_property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of images and labels of both parts, for run cards."""
        parts = {
            "train images": self.train_images, "train labels": self.train_labels,
            "test images": self.test_images, "test labels": self.test_labels,
        }  # fmt: skip
        return {f"{self.name} {part}": _digest(tensor) for part, tensor in parts.items()}

    def accuracy(self, predicted: Tensor, labels: Tensor) -> float:  # (N,), (N,)
        """Return the fraction of predicted classes that are right.

        Raises ValueError for a synthetic set, whose labels are random: no number is better than a
        meaningless one.
        """
        if self.synthetic:
            raise ValueError(
                f"The labels of the data set {self.label!r} are random numbers, so an accuracy on "
                "it means nothing. Report its seconds; for an accuracy take a real data set."
            )
        return (predicted == labels).double().mean().item()

    def subset(
        self, train: int | None = None, test: int | None = None, per_class: bool = False
    ) -> Self:
        """Keep the first so many images of each part, or (per_class) of each class in it.

        None keeps all. The label tells the new sizes. Raises KnobError for more than there are.
        """
        train_rows = _first("train", self.train_labels, train, per_class)  # (N,)
        test_rows = _first("test", self.test_labels, test, per_class)  # (M,)
        small = replace(
            self,
            train_images=self.train_images[train_rows],
            train_labels=self.train_labels[train_rows],
            test_images=self.test_images[test_rows],
            test_labels=self.test_labels[test_rows],
        )
        return small if small.sizes == self.sizes else small.as_part()

    def as_part(self) -> Self:
        """Return the set with a label like "CIFAR-10: 500 training and 100 test images"."""
        train, test = self.sizes
        whole = SIZES.sub("", self.label)  # a part of a part tells its own sizes only
        return replace(self, label=f"{whole}: {train:,} training and {test:,} test images")


def _check_part(what: str, images: Tensor, labels: Tensor, num_classes: int) -> None:
    if images.ndim != 4 or images.dtype != torch.float32:
        found = f"{tuple(images.shape)} {images.dtype}"
        raise KnobError(f"{what}_images must be (N, C, H, W) torch.float32, got {found}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64 or not len(labels):
        found = f"{tuple(labels.shape)} {labels.dtype} for {len(images)} images"
        raise KnobError(f"{what}_labels must be (N,) torch.int64, N at least 1, got {found}")
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # NaN, too
        raise KnobError(f"{what}_images must lie in [0, 1], got values from {low:g} to {high:g}")
    if labels.min() < 0 or labels.max() >= num_classes:
        found = f"{labels.min()} to {labels.max()}"
        raise KnobError(f"{what}_labels must be 0 to {num_classes - 1}, got {found}")


def _first(
    part: str,
    labels: Tensor,  # (N,)
    count: int | None,
    per_class: bool,
) -> Tensor:  # (K,) row numbers in the order of the data set
    if count is None:
        return torch.arange(len(labels))
    available = int(labels.unique(return_counts=True)[1].min()) if per_class else len(labels)
    if not 1 <= count <= available:
        unit = "images of each class" if per_class else "images"
        raise KnobError(f"{part} = {count} {unit}; there are {available}: give 1 to {available}.")
    if not per_class:
        return torch.arange(count)
    of_class = [(labels == each).nonzero()[:count, 0] for each in labels.unique()]
    return torch.cat(of_class).sort().values


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().data).hexdigest()
