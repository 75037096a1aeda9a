"""CIFAR-10 in its binary version, from the user's disk or downloaded once.

60,000 color images of 32 x 32 pixels in ten classes: A. Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009. A record is one byte of label and 3 x 32 x 32 bytes of pixels.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from andersonn_core.data.base import DataError, ImageSet

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as published beside it
FOLDER_VARIABLE = "ANDERSON_LAB_DATA"  # environment: where downloads are kept

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
SUBFOLDER = "cifar-10-batches-bin"  # inside the archive
WHOLE = 50_000, 10_000
CHUNK = 2**18  # bytes between two reports of a download

Progress = Callable[[int, int], None]  # bytes so far, of how many (0 if the server does not tell)


def load_cifar10(path: str | Path | None = None) -> ImageSet:
    """Read CIFAR-10 from `path`: its folder or its archive; None downloads the archive first.

    Raises DataError, which says what to do, for files that are missing or damaged.
    """
    source = download_cifar10() if path is None else Path(path).expanduser()
    files = _read(source)
    train_images, train_labels = _part(source, files, TRAIN_FILES)
    test_images, test_labels = _part(source, files, (TEST_FILE,))
    images = ImageSet(
        name="cifar10",
        label="CIFAR-10",
        summary="Color photographs of 32 x 32 pixels in ten classes (Krizhevsky, 2009).",
        classes=CLASSES,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )
    return images if images.sizes == WHOLE else images.as_part()


def download_cifar10(
    folder: str | Path | None = None,
    url: str = URL,
    md5: str = MD5,
    on_progress: Progress | None = None,
) -> Path:
    """Return the path of the archive, downloaded (162 MiB) unless it is there and intact.

    It is kept in `folder`; None: that of the environment variable ANDERSON_LAB_DATA, else the
    user's cache folder. An exception that `on_progress` raises ends the download and leaves
    nothing behind. Raises DataError without pooch, a network, room, or the published checksum.
    """
    pooch = _pooch()
    from requests.exceptions import RequestException  # comes with pooch

    kept = Path(folder or os.environ.get(FOLDER_VARIABLE) or pooch.os_cache("anderson-lab"))
    kept, name = kept.expanduser(), url.rsplit("/", 1)[-1]
    by_hand = f"or fetch {url} elsewhere, and put it into {kept}."
    bar = None if on_progress is None else _Bar(on_progress)
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK)
    try:
        return Path(pooch.retrieve(url, f"md5:{md5}", name, kept, downloader=downloader))
    except RequestException as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded ({type(error).__name__}). Check the connection and "
            f"try again, {by_hand}"
        ) from error
    except ValueError as error:
        if "hash" not in str(error):
            raise
        raise DataError(
            f"What came from {url} does not have the published checksum (md5 {md5}) and was "
            f"deleted. Try again, {by_hand}"
        ) from error
    except OSError as error:
        raise DataError(
            f"CIFAR-10 could not be stored in {kept} ({error.strerror or error}). Make room or "
            f"allow writing there, or name another folder in the environment variable "
            f"{FOLDER_VARIABLE}."
        ) from error


def _pooch() -> Any:
    try:
        import pooch  # optional dependency: whoever has the files needs no downloads
    except ImportError as error:
        raise DataError(
            "Downloading CIFAR-10 takes the package pooch, which is not installed: pip install "
            f"'anderson-lab[data]', or fetch {URL} and give load_cifar10 its path."
        ) from error
    return pooch


@dataclass
class _Bar:
    """What pooch reports a download to, as a progress bar of tqdm's kind."""

    on_progress: Progress
    total: int = 0
    done: int = 0

    def update(self, num_bytes: int) -> None:
        """Count a chunk; pooch calls the last, shorter one a whole chunk."""
        self.done += num_bytes
        self.on_progress(min(self.done, self.total) if self.total else self.done, self.total)

    def reset(self) -> None:
        """Begin again: pooch ends with this and an update by the total."""
        self.done = 0

    def close(self) -> None:
        """Nothing is open."""


def _read(source: Path) -> dict[str, bytes]:
    """The six files by their names, from the folder, its subfolder or the archive."""
    wanted = (*TRAIN_FILES, TEST_FILE)
    remedy = f"Fetch {URL} and give load_cifar10 its path, or that of the unpacked folder."
    try:
        if source.is_dir():
            inner = source / SUBFOLDER
            folder = inner if inner.is_dir() else source
            found = {
                name: (folder / name).read_bytes() for name in wanted if (folder / name).exists()
            }
        else:
            found = _unpacked(source, wanted)
    except FileNotFoundError as error:
        raise DataError(f"There is neither a folder nor a file {source}. {remedy}") from error
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{source} cannot be read as CIFAR-10 ({error}). {remedy}") from error
    if missing := [name for name in wanted if name not in found]:
        none = "any file" if len(missing) == len(wanted) else ", ".join(missing)
        raise DataError(f"{source} lacks {none} of CIFAR-10's binary version. {remedy}")
    return found


def _unpacked(archive: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Files of an archive in one pass: a compressed one would be read anew for each name."""
    found = {}
    with tarfile.open(archive) as members:
        for member in members:
            name = Path(member.name).name
            if member.isfile() and name in wanted and (content := members.extractfile(member)):
                found[name] = content.read()
    return found


def _part(
    source: Path, files: Mapping[str, bytes], names: Sequence[str]
) -> tuple[Tensor, Tensor]:  # (N, 3, 32, 32) float32 in [0, 1], (N,) int64
    """Images and labels of some files, one after the other."""
    parts = [_records(f"{name} in {source}", files[name]) for name in names]
    images = torch.empty(sum(map(len, parts)), *SHAPE, dtype=torch.float32)
    for part, rows in zip(parts, images.split([len(part) for part in parts]), strict=True):
        rows.numpy()[...] = part[:, 1:].reshape(-1, *SHAPE)
    labels = np.concatenate([part[:, 0] for part in parts]).astype(np.int64)  # (N,)
    return images.div_(255), torch.from_numpy(labels)


def _records(file: str, content: bytes) -> NDArray[np.uint8]:  # (N, 3073)
    again = "The file is damaged or another: fetch it again."
    if not content or len(content) % RECORD:
        raise DataError(
            f"{file} has {len(content):,} bytes, which is no whole number of records of {RECORD:,} "
            f"bytes. {again}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if len(wrong):
        label = records[wrong[0], 0]
        raise DataError(f"{file} has the label {label} in record {wrong[0]}, above 9. {again}")
    return records
