"""The run card: what was run, on what, and what came out, sealed against alterations."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from andersonn_core.results import Status
from andersonn_core.seal import AlteredError, digest, parsed, sealed

if TYPE_CHECKING:
    from andersonn_core.results import SolveResult

PACKAGE = Path(__file__).parent
_KINDS = {"spec": dict, "versions": dict, "data_hashes": dict, "summary": dict, "threads": int}

_ALTERED = (
    "this run card was altered: its content is not what its sha256 says. Take the file as it was "
    "saved, or run its spec again and save the card of that run."
)
_UNSEALED = (
    "this run card has no sha256 of its content, by which an alteration would be seen: it was "
    "saved by an older version, or the key was removed. Run its spec again and save the new card."
)


class AlteredCardError(AlteredError):
    """A run card whose content is not what its digest says."""


@dataclass(frozen=True)
class RunCard:
    """The record of one run, written as canonical JSON with the digest of its content.

    `spec` holds all resolved knobs; where `solve` was called with a map of the user's own, its
    "problem" is None and "map" is the map's qualified name. `summary` is empty until the run ended.
    """

    spec: dict[str, Any]
    spec_id: str | None  # None: a map of the user's own
    seed: int | None
    versions: dict[str, str]
    code_hash: str  # of this package's sources
    device: str  # the model, not the torch name: "AMD EPYC 9654", "NVIDIA H200"
    threads: int  # torch's
    date: str  # ISO 8601, UTC, when the run began
    data_hashes: dict[str, str] = field(default_factory=dict)  # sha256 of weights and data files
    summary: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def capture(
        cls,
        spec_record: Mapping[str, Any],
        spec_id: str | None,
        seed: int | None,
        device: torch.device,
        data_hashes: Mapping[str, str] | None = None,
    ) -> Self:
        """The card of a run that begins now; what stays the same in a process is looked up once."""
        return cls(
            spec=dict(spec_record),
            spec_id=spec_id,
            seed=seed,
            versions=dict(_versions()),
            code_hash=code_hash(),
            device=device_name(device),
            threads=torch.get_num_threads(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            data_hashes=dict(data_hashes or {}),
        )

    def with_summary(self, result: SolveResult) -> Self:
        """The same card with the numbers of the run that ended."""
        return replace(self, summary=_summary(result))

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON takes it, with the digest of its content as "sha256"."""
        record: dict[str, Any] = json.loads(self.to_json())
        return record

    def to_json(self) -> str:
        """Canonical JSON with the digest: sorted keys, no NaN."""
        return json.dumps(sealed(vars(self)), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The card that `to_json` wrote.

        Raises AlteredCardError where its content is not what its digest says, ValueError that says
        what is wrong for anything else that is no card, or a card without a digest.
        """
        try:
            record = parsed(text)
            right = digest(record) if isinstance(record, dict) else None
        except (ValueError, RecursionError) as error:  # no JSON, no text, or NaN
            raise ValueError(f"this is not a run card: {error}.") from None
        names = [item.name for item in fields(cls)]
        if right is None or set(record) - {"sha256"} != set(names):
            raise ValueError(f"this is not a run card: it must have exactly {', '.join(names)}.")
        if "sha256" not in record:
            raise ValueError(_UNSEALED)
        if record.pop("sha256") != right:
            raise AlteredCardError(_ALTERED)
        for name, kind in _KINDS.items():
            if not isinstance(record[name], kind) or isinstance(record[name], bool):
                raise ValueError(f"this is not a run card: its {name} is {record[name]!r}.")
        return cls(**record)

    def save(self, path: str | Path) -> None:
        """Write the card as a JSON file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a card that `save` wrote; raises as `from_json` does, with the path."""
        try:
            return cls.from_json(Path(path).read_bytes())
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from None


def device_name(device: torch.device) -> str:
    """The model of a device, e.g. "NVIDIA H200"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name() if device.type == "cpu" else device.type


@functools.cache
def code_hash() -> str:
    """Hash of this package's Python sources, names included, as they were when first asked for."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def code_version() -> str:
    """Version + hash of the package's sources: what a stored number was computed by."""
    return f"{_versions()['andersonn_core']}+{code_hash()}"


@functools.cache
def _versions() -> Mapping[str, str]:
    # At the top it would be a circle: the package is being imported when this module is.
    from andersonn_core import __version__

    return {
        # Processors of one name may round differently: torch takes the widest set it finds.
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "andersonn_core": __version__,
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


@functools.cache
def _cpu_name() -> str:
    """The processor's model where the system tells it (Linux), otherwise what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _summary(result: SolveResult) -> dict[str, Any]:
    history = result.history
    counts = {status.name: int((result.status == int(status)).sum()) for status in Status}
    return {
        "num_evals": result.num_evals,
        "status": {name: count for name, count in counts.items() if count},
        "sample_evals": _spread(result.sample_evals),
        "sample_evals_digest": _counts_digest(result.sample_evals),
        "relative_residual": _spread(result.relative_residual),
        "map_seconds": _number(float(history.map_seconds.sum())),
        "method_seconds": _number(float(history.method_seconds.sum())),
        "clock": history.clock,
    }


def _spread(values: Tensor) -> dict[str, float | None]:  # (B,)
    """The value that half of the samples do not exceed, and the largest; None if not finite."""
    array = values.detach().cpu().double().numpy()
    if not array.size:
        return {"median": None, "worst": None}
    worst = float(array.max())  # NaN where any is
    # np.quantile(method="inverted_cdf") gives the same, and takes half a millisecond
    median = float(np.sort(array)[(array.size - 1) // 2]) if worst == worst else worst
    return {"median": _number(median), "worst": _number(worst)}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _counts_digest(counts: Tensor) -> str:  # (B,) int64
    return hashlib.sha256(json.dumps(counts.tolist()).encode()).hexdigest()[:16]
