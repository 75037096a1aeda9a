"""Checkpoints that survive kill -9: tensors by safetensors, the rest as JSON, each whole or absent.

A checkpoint is two files, step-00000120.safetensors and step-00000120.json. Each is written beside
its place, flushed to the disk and moved; the JSON comes last and holds the other file's SHA-256, so
that it exists only where both are complete. The one before is deleted after that.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from andersonn_core.training.failures import CheckpointError, CheckpointWarning, not_written

if TYPE_CHECKING:
    from andersonn_core.training.spec import TrainSpec

KEPT = 2  # the newest, and the one before it in case the newest is damaged
FORMAT = 1
FREE = ("device", "spectrum")  # knobs that may differ when a training goes on: same weights


@dataclass(frozen=True)
class Checkpoint:
    """What was written at one step."""

    record: dict[str, Any]
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()  # of damaged ones that were passed over

    def check(self, spec: TrainSpec, data_hashes: Mapping[str, str], folder: Path) -> None:
        """Raise CheckpointError unless it is of this training and of these images."""
        before, now = self.record["original"], spec.to_dict()
        differ = [
            f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
            for name in {**before, **now}
            if before.get(name) != now.get(name) and name not in FREE
        ]
        if differ:
            raise CheckpointError(
                f"The checkpoint in {folder} is of another training: {'; '.join(differ)}. Use the "
                "same knobs, or another folder."
            )
        if self.record["data_hashes"] != data_hashes:
            raise CheckpointError(
                f"The checkpoint in {folder} was trained on other images than {spec.data!r} holds "
                "now: restore the data, or begin anew in another folder."
            )


class Checkpoints:
    """The checkpoints of one training in a folder of its own."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    @property
    def steps(self) -> list[int]:
        """The steps of the complete ones, oldest first."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self._files("step-*.json"))

    @property
    def kept(self) -> str:
        """One sentence on what a failure leaves behind."""
        steps = self.steps
        if not steps:
            return "There is no checkpoint yet."
        return f"The checkpoint of step {steps[-1]} in {self.folder} is kept."

    def write(self, step: int, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
        """Write one, delete those that are older than the one before it; the path of its JSON.

        Raises CheckpointError that says what to do; those that exist are kept then.
        """
        from safetensors.torch import save  # optional at import, as all but torch and numpy are

        data = save({name: value.detach().contiguous() for name, value in tensors.items()})
        record = {"format": FORMAT, "step": step, **record, "sha256": _sha256(data)}
        text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self._path(step, ".safetensors"), data)
            _write(self._path(step, ".json"), text.encode())
            self._prune()
        except OSError as error:
            size = len(data) + len(text)
            raise CheckpointError(not_written(error, self.folder, step, size, self.kept)) from error
        return self._path(step, ".json")

    def read(self) -> Checkpoint | None:
        """The newest that is whole; None where there is none at all.

        Warns with CheckpointWarning of damaged ones; raises CheckpointError if all are.
        """
        notes = []
        for step in reversed(self.steps):
            try:
                record, tensors = self._read(step)
            except (OSError, ValueError) as error:
                notes.append(f"The checkpoint of step {step} in {self.folder} is damaged: {error}.")
                continue
            if notes:
                notes.append(f"The training goes on from the one before it, of step {step}.")
                warnings.warn(" ".join(notes), CheckpointWarning, stacklevel=2)
            return Checkpoint(record, tensors, tuple(notes))
        if notes:
            raise CheckpointError(
                " ".join([*notes, "None is left: start anew in another folder, or delete them."])
            )
        return None

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from safetensors.torch import load

        record = json.loads(self._path(step, ".json").read_text())
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError("its JSON has another format")
        data = self._path(step, ".safetensors").read_bytes()
        if _sha256(data) != record["sha256"]:
            raise ValueError("its tensors are not what was written")
        return record, load(data)

    def _path(self, step: int, suffix: str) -> Path:
        return self.folder / f"step-{step:08d}{suffix}"

    def _files(self, pattern: str) -> list[Path]:
        return list(self.folder.glob(pattern))

    def _prune(self) -> None:
        """Delete what is older than the newest two, and what a kill left unfinished."""
        kept = {f"step-{step:08d}" for step in self.steps[-KEPT:]}
        for path in [*self._files("step-*.json"), *self._files("step-*.safetensors")]:
            if path.stem not in kept:
                path.unlink(missing_ok=True)
        for path in self._files(".step-*.part"):
            path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """All of it in its place, on the disk, or nothing."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make the new name durable; Windows opens no folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
