"""The run card: what was run, on what, and what came out, so that anyone can rerun it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from andersonn_core.results import Status

if TYPE_CHECKING:
    from andersonn_core.results import SolveResult

RESIDUAL_RTOL = 1e-3  # relative difference up to which `rerun` says that residuals agree
PACKAGE = Path(__file__).parent
_KINDS = {"spec": dict, "versions": dict, "data_hashes": dict, "summary": dict, "threads": int}


@dataclass(frozen=True)
class RunCard:
    """The record of one run, written as canonical JSON.

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

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no NaN."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The card that `to_json` wrote; raises ValueError that says what is wrong with it."""
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"this is not a run card: {error}.") from None
        names = [item.name for item in fields(cls)]
        if not isinstance(record, dict) or set(record) != set(names):
            raise ValueError(f"this is not a run card: it must have exactly {', '.join(names)}.")
        for name, kind in _KINDS.items():
            if not isinstance(record[name], kind) or isinstance(record[name], bool):
                raise ValueError(f"this is not a run card: its {name} is {record[name]!r}.")
        return cls(**record)

    def save(self, path: str | Path) -> None:
        """Write the card as a JSON file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a card that `save` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Comparison:
    """One number of a card beside the same number of the run that repeated it."""

    name: str
    recorded: Any
    repeated: Any
    agrees: bool | None  # None: reported, never judged (seconds)


@dataclass(frozen=True)
class RerunReport:
    """What `rerun` found, number by number, and what else differs between the two runs."""

    numbers: tuple[Comparison, ...]
    differences: tuple[str, ...]  # code, versions, device, threads, data: possible reasons
    card: RunCard  # of the run that repeated it
    residual_rtol: float

    @property
    def agrees(self) -> bool:
        """Whether every number that is judged agrees."""
        return all(number.agrees is not False for number in self.numbers)

    @property
    def sentence(self) -> str:
        """The verdict in words, with possible reasons where numbers differ."""
        judged = [number for number in self.numbers if number.agrees is not None]
        if self.agrees:
            return f"All {len(judged)} numbers agree (residuals within {self.residual_rtol:g})."
        wrong = ", ".join(number.name for number in judged if not number.agrees)
        if not self.differences:
            return f"These numbers differ: {wrong}. Code, versions, device and data do not."
        return f"These numbers differ: {wrong}. Possible reasons: {'; '.join(self.differences)}."


def rerun(card: RunCard, residual_rtol: float = RESIDUAL_RTOL) -> RerunReport:
    """Run the card's spec again, with its torch threads as far as there are cores, and compare.

    Raises ValueError for a card of a map that was given as code, and for a card without numbers.
    """
    from andersonn_core.solve import SolveSpec  # solve writes the cards: it can't be imported above

    if card.spec.get("problem") is None:
        name = card.spec.get("map", "unknown")
        raise ValueError(f"a card can't hold a map given as code ({name}): call solve again.")
    if not card.summary:
        raise ValueError("the card has no numbers to compare with: its run did not end.")
    spec, threads = SolveSpec.from_dict(card.spec), torch.get_num_threads()
    torch.set_num_threads(max(1, min(card.threads, os.cpu_count() or 1)))
    try:
        repeated = spec.run().card
    finally:
        torch.set_num_threads(threads)
    return RerunReport(
        numbers=tuple(_compare(card.summary, repeated.summary, residual_rtol)),
        differences=tuple(_differences(card, repeated)),
        card=repeated,
        residual_rtol=residual_rtol,
    )


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
        "sample_evals_digest": _digest(result.sample_evals),
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
    median = np.quantile(array, 0.5, method="inverted_cdf")
    return {"median": _number(float(median)), "worst": _number(float(array.max()))}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _digest(counts: Tensor) -> str:  # (B,) int64
    return hashlib.sha256(json.dumps(counts.tolist()).encode()).hexdigest()[:16]


def _compare(
    recorded: Mapping[str, Any], repeated: Mapping[str, Any], residual_rtol: float
) -> Sequence[Comparison]:
    """Counts must be equal, residuals close; seconds and their clock are shown only."""
    comparisons = []
    for name, value in _flat(repeated).items():
        old = _flat(recorded).get(name)
        agrees: bool | None = old == value
        if name.endswith("_seconds") or name == "clock":
            agrees = None
        elif name.startswith("relative_residual") and old is not None and value is not None:
            agrees = math.isclose(old, value, rel_tol=residual_rtol)
        comparisons.append(Comparison(name, old, value, agrees))
    return comparisons


def _flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; the status counts stay together, as one number of the run."""
    flat: dict[str, Any] = {}
    for name, value in summary.items():
        nested = isinstance(value, Mapping) and name != "status"
        inner = {f"{name}.{key}": number for key, number in value.items()} if nested else {}
        flat |= inner or {name: value}
    return flat


def _differences(recorded: RunCard, repeated: RunCard) -> Sequence[str]:
    """What differs between the two runs' circumstances, each in words."""
    old = {f"{name} version": version for name, version in recorded.versions.items()}
    new = {f"{name} version": version for name, version in repeated.versions.items()}
    for pairs, card in ((old, recorded), (new, repeated)):
        pairs |= {"code": card.code_hash, "device": card.device, "threads": str(card.threads)}
        pairs |= {f"data {name}": digest for name, digest in card.data_hashes.items()}
    names = [name for name in old | new if old.get(name) != new.get(name)]
    return [f"{name} was {old.get(name, 'absent')}, is {new.get(name, 'absent')}" for name in names]
