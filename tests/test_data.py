"""Data sets: the same split everywhere, files checked before use, sentences that say what to do."""

import errno
import gc
import hashlib
import io
import sys
import tarfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from andersonn_core import KnobError
from andersonn_core.data import (
    DATASETS,
    DataError,
    ImageSet,
    download_cifar10,
    load_cifar10,
    load_digits,
    synthetic_images,
)
from andersonn_core.data.cifar10 import FOLDER_VARIABLE, MD5, RECORD, SUBFOLDER, TEST_FILE

FILES = [f"data_batch_{number}.bin" for number in (1, 2, 3, 4, 5)] + ["test_batch.bin"]


def records(number: int, count: int = 20) -> np.ndarray:
    """Records of the binary version: a label, then red, green and blue planes."""
    made = np.random.default_rng(number).integers(0, 256, (count, 3073), dtype=np.uint8)
    made[:, 0] = np.arange(count) % 10
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """CIFAR-10's six files, 20 images each."""
    home = tmp_path / "cifar"
    home.mkdir()
    for number, name in enumerate(FILES):
        (home / name).write_bytes(records(number).tobytes())
    return home


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    """The same files in an archive like the published one."""
    path = tmp_path / "served" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as members:
        notes = tarfile.TarInfo(f"{SUBFOLDER}/readme.html")
        members.addfile(notes, io.BytesIO(b""))
        for name in FILES:
            members.add(folder / name, f"{SUBFOLDER}/{name}")
    return path


# every set


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_a_set_is_float32_images_in_0_to_1_with_int64_labels(name):
    images = DATASETS[name]()
    assert images.name == name and images.summary.endswith(".")
    for pixels, labels in (
        (images.train_images, images.train_labels),
        (images.test_images, images.test_labels),
    ):
        assert pixels.dtype == torch.float32 and pixels.shape[1:] == images.image_shape
        assert pixels.min() >= 0 and pixels.max() <= 1
        assert labels.dtype == torch.int64 and labels.shape == pixels.shape[:1]
        assert 0 <= labels.min() and labels.max() < images.num_classes == 10


def test_digits_are_split_alike_on_every_call_with_every_image_once():
    first, second = load_digits(), load_digits()
    assert first.sizes == (1437, 360) and first.image_shape == (1, 8, 8)
    assert first.sha256 == second.sha256 and not first.synthetic
    from sklearn.datasets import load_digits as bundled

    ours = torch.cat([first.train_images, first.test_images]).flatten(1) * 16
    rows, theirs = (sorted(map(tuple, each.tolist())) for each in (ours, bundled().data))
    assert rows == theirs


def test_digits_are_split_in_proportion_to_each_class():
    digits = load_digits()
    test, train = (labels.bincount() for labels in (digits.test_labels, digits.train_labels))
    assert ((train + test) * 360 / 1797 - test).abs().max() < 1


def test_hashes_are_those_of_the_bytes_and_tell_one_changed_pixel():
    digits = load_digits()
    bytes_of = digits.test_images.numpy().tobytes()
    assert digits.sha256["digits test images"] == hashlib.sha256(bytes_of).hexdigest()
    changed = digits.train_images.clone()
    changed[5, 0, 3, 3] += 1e-7
    differing = replace(digits, train_images=changed.clamp(0, 1)).sha256
    assert [key for key in differing if differing[key] != digits.sha256[key]] == [
        "digits train images"
    ]


def test_a_subset_keeps_the_first_images_and_says_so():
    digits = load_digits()
    small = digits.subset(train=100, test=50)
    assert torch.equal(small.train_images, digits.train_images[:100])
    assert torch.equal(small.test_labels, digits.test_labels[:50])
    assert small.label == "Handwritten digits: 100 training and 50 test images"
    assert small.subset(train=10).label == "Handwritten digits: 10 training and 50 test images"
    assert digits.subset().label == digits.label and small.name == digits.name


def test_a_subset_by_class_has_the_first_of_each_class_in_the_order_of_the_set():
    digits = load_digits()
    small = digits.subset(train=7, per_class=True)
    assert small.train_labels.bincount().tolist() == [7] * 10
    assert small.sizes == (70, 360)
    threes = digits.train_images[digits.train_labels == 3][:7]
    assert torch.equal(small.train_images[small.train_labels == 3], threes)
    whole = digits.subset(train=100, per_class=True)
    assert not torch.equal(whole.train_labels, whole.train_labels.sort().values)


@pytest.mark.parametrize("count", [0, -1, 1438])
def test_a_subset_that_cannot_be_is_refused_with_the_range(count):
    with pytest.raises(KnobError, match=f"train = {count} images; .*give 1 to 1437"):
        load_digits().subset(train=count)
    with pytest.raises(KnobError, match="of each class; .*give 1 to 35"):
        load_digits().subset(test=36, per_class=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": torch.zeros(3, 8, 8)}, "train_images must be .N, C, H, W."),
        ({"train_images": torch.zeros(3, 1, 8, 8).double()}, "float32, got .* torch.float64"),
        ({"train_images": torch.full((3, 1, 8, 8), 255.0)}, "in .0, 1., got values from 255"),
        ({"train_images": torch.full((3, 1, 8, 8), torch.nan)}, "got values from nan"),
        ({"train_images": torch.zeros(4, 1, 8, 8)}, "train_labels must be .* for 4 images"),
        ({"train_images": torch.zeros(3, 1, 9, 9)}, "one shape"),
        ({"train_labels": torch.tensor([0, 1, 2])}, "must be 0 to 1, got 0 to 2"),
        ({"test_labels": torch.zeros(3)}, "test_labels must be .* torch.float32"),
    ],
    ids=str,
)
def test_a_set_of_ones_own_is_checked_when_it_is_made(change, words):
    mine = ImageSet(
        "mine", "Mine", "Nothing.", ("no", "yes"),
        torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 0]),
        torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 0]),
    )  # fmt: skip
    with pytest.raises(KnobError, match=words):
        replace(mine, **change)


# the synthetic set


def test_no_accuracy_is_given_for_the_synthetic_set():
    digits, random = load_digits(), synthetic_images()
    predicted = digits.test_labels.clone()
    predicted[:36] = (predicted[:36] + 1) % 10
    assert digits.accuracy(predicted, digits.test_labels) == 0.9
    assert random.synthetic and random.label == "synthetic (throughput only)"
    with pytest.raises(ValueError, match="an accuracy on it means nothing"):
        random.accuracy(random.test_labels, random.test_labels)
    part = random.subset(train=10)
    assert part.synthetic and part.label.startswith("synthetic (throughput only): 10 training")


def test_the_synthetic_set_has_cifar_s_shape_and_only_the_seed_changes_it():
    before = torch.random.get_rng_state()
    first, again, other = (synthetic_images(64, 16, seed=seed) for seed in (1, 1, 2))
    assert first.image_shape == (3, 32, 32) and first.sizes == (64, 16)
    assert first.sha256 == again.sha256 != other.sha256
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(KnobError, match="train = 0 images; give at least 1"):
        synthetic_images(train=0)


# CIFAR-10's files


def test_cifar10_is_read_byte_for_byte(folder):
    images = load_cifar10(folder)
    assert images.image_shape == (3, 32, 32) and images.sizes == (100, 20)
    assert images.label == "CIFAR-10: 100 training and 20 test images" and not images.synthetic
    raw = np.concatenate([records(number) for number in range(5)])
    assert images.train_labels.tolist() == raw[:, 0].tolist()
    pixels = (images.train_images * 255).round().numpy().astype(np.uint8)
    assert (pixels.reshape(100, -1) == raw[:, 1:]).all()
    image = records(5)[7, 1:]  # 1024 red, then green, then blue; rows first
    assert images.test_images[7, 2, 1, 5].item() == pytest.approx(image[2 * 1024 + 32 + 5] / 255)
    assert images.classes[images.test_labels[9]] == "truck"


def test_folder_subfolder_archive_and_bare_archive_give_the_same_images(folder, archive, tmp_path):
    above = tmp_path / "above"
    above.mkdir()
    folder.rename(above / SUBFOLDER)
    bare = tmp_path / "bare.tar"
    with tarfile.open(bare, "w") as members:
        members.add(above / SUBFOLDER, ".")
    sources = [above, above / SUBFOLDER, archive, str(bare)]
    (hashes,) = {tuple(load_cifar10(source).sha256.values()) for source in sources}
    assert len(hashes) == 4


def test_the_whole_set_is_called_by_its_name_alone(folder, monkeypatch):
    monkeypatch.setattr("andersonn_core.data.cifar10.WHOLE", (100, 20))
    assert load_cifar10(folder).label == "CIFAR-10"


def test_without_a_path_the_archive_is_downloaded(archive, folder, monkeypatch):
    monkeypatch.setattr("andersonn_core.data.cifar10.download_cifar10", lambda: archive)
    assert DATASETS["cifar10"]().sha256 == load_cifar10(folder).sha256


def refused(source: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_cifar10(source)
    assert "etch" in str(caught.value)  # where to get it right
    return str(caught.value)


def test_a_truncated_file_is_named(folder):
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    message = refused(folder)
    assert "data_batch_3.bin" in message and f"{20 * RECORD - 1:,} bytes" in message
    path.write_bytes(b"")
    assert "has 0 bytes" in refused(folder)


def test_a_label_above_nine_is_named_with_its_record(folder):
    wrong = records(5)
    wrong[13, 0] = 10
    (folder / TEST_FILE).write_bytes(wrong.tobytes())
    assert "has the label 10 in record 13" in refused(folder)


def test_missing_files_are_named(folder, tmp_path):
    (folder / "data_batch_2.bin").unlink()
    (folder / TEST_FILE).unlink()
    assert "lacks data_batch_2.bin, test_batch.bin of" in refused(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "lacks any file of CIFAR-10's binary version" in refused(empty)
    assert "neither a folder nor a file" in refused(tmp_path / "nowhere")


def test_what_is_no_archive_and_half_an_archive_are_refused(archive, tmp_path):
    whole = archive.read_bytes()
    for content in (b"", b"<html>404</html>", whole[: len(whole) // 2]):
        archive.write_bytes(content)
        assert "cannot be read as CIFAR-10" in refused(archive)
    other = tmp_path / "other.tar"
    with tarfile.open(other, "w") as members:
        members.add(archive, "data_batch_1")  # the name that the Python version has
    assert "lacks any file of CIFAR-10's binary version" in refused(other)


# the download, from a server of our own


@dataclass
class Server:
    """A web server of one folder on this machine."""

    url: str
    served: list[str]

    def fetch(self, folder: Path | None, md5: str, **more) -> Path:
        return download_cifar10(folder, f"{self.url}/cifar-10-binary.tar.gz", md5, **more)


@pytest.fixture
def server(archive: Path, monkeypatch) -> Iterator[Server]:
    pytest.importorskip("pooch", reason="needs pooch: pip install 'anderson-lab[data]'")
    served = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            served.append(self.path)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = partial(Handler, directory=str(archive.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Server(f"http://127.0.0.1:{server.server_port}", served)
        server.shutdown()
        thread.join()
    with warnings.catch_warnings():  # pooch leaves the socket of a failed download to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_the_archive_is_downloaded_once_and_again_when_it_was_damaged(
    server, archive, folder, tmp_path
):
    cache, md5 = tmp_path / "cache", md5_of(archive)
    reports = []
    path = server.fetch(cache, md5, on_progress=lambda *report: reports.append(report))
    assert path == cache / archive.name and path.read_bytes() == archive.read_bytes()
    size = archive.stat().st_size
    assert reports[-1] == (size, size) and all(total == size for _, total in reports)
    assert load_cifar10(path).sha256 == load_cifar10(folder).sha256
    assert server.fetch(cache, md5) == path and len(server.served) == 1
    path.write_bytes(b"damaged")
    assert md5_of(server.fetch(cache, md5)) == md5 and len(server.served) == 2


def test_a_wrong_checksum_leaves_no_file_and_says_what_to_do(server, tmp_path):
    with pytest.raises(DataError, match="does not have the published checksum .md5 c32a1d4a") as e:
        server.fetch(tmp_path / "cache", MD5)
    assert "deleted" in str(e.value) and str(tmp_path / "cache") in str(e.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_that_is_called_off_leaves_no_file(server, archive, tmp_path):
    def call_off(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server.fetch(tmp_path / "cache", md5_of(archive), on_progress=call_off)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_an_answer_the_sentence_says_how_to_do_without(server, archive, tmp_path):
    for url in ("http://127.0.0.1:9", f"{server.url}/nothing"):  # nobody listens; not found
        with pytest.raises(DataError, match="could not be downloaded") as caught:
            download_cifar10(tmp_path, f"{url}/cifar-10-binary.tar.gz", MD5)
        assert "Check the connection" in str(caught.value) and str(tmp_path) in str(caught.value)
    # as told: fetched elsewhere and put there, it needs no network
    (tmp_path / archive.name).write_bytes(archive.read_bytes())
    assert download_cifar10(tmp_path, f"http://127.0.0.1:9/{archive.name}", md5_of(archive))


def test_the_environment_names_the_folder_of_downloads(server, archive, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "chosen"))
    assert server.fetch(None, md5_of(archive)).parent == tmp_path / "chosen"


def test_no_room_is_told_with_the_folder_and_how_to_name_another(server, tmp_path, monkeypatch):
    def full(*arguments: object, **knobs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.move", full)
    with pytest.raises(DataError, match=f"No space left .*{FOLDER_VARIABLE}"):
        server.fetch(tmp_path / "cache", md5_of(tmp_path / "served" / "cifar-10-binary.tar.gz"))


def test_without_pooch_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r"pip install 'anderson-lab\[data\]'"):
        load_cifar10()
