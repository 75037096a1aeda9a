"""Data sets, one family a file, and the table of their loaders."""

from __future__ import annotations

from collections.abc import Callable

from andersonn_core.data.base import DataError, ImageSet
from andersonn_core.data.cifar10 import download_cifar10, load_cifar10
from andersonn_core.data.digits import load_digits
from andersonn_core.data.synthetic import synthetic_images

DATASETS: dict[str, Callable[[], ImageSet]] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "synthetic": synthetic_images,
}

__all__ = [
    "DATASETS",
    "DataError",
    "ImageSet",
    "download_cifar10",
    "load_cifar10",
    "load_digits",
    "synthetic_images",
]
