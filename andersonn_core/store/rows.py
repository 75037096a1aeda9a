"""One trial's outcome, as a worker hands it over and a store keeps it."""

from __future__ import annotations

from dataclasses import dataclass

FAILED = "FAILED"  # the status of a trial that an error ended; a Status of Status otherwise


@dataclass(frozen=True)
class Row:
    """What came out of one trial; numbers are None where it failed."""

    spec_id: str
    kind: str  # solve or train
    knobs: str  # the spec's JSON
    seed: int
    repeat: int
    code: str
    device: str
    status: str
    date: str
    card: str  # the run card's JSON
    clock: str = ""
    reason: str = ""
    num_evals: int | None = None
    seconds: float | None = None
    relative_residual: float | None = None
    accuracy: float | None = None
    samples: int | None = None
    converged: int | None = None
    curves: bytes | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What the row is of, on one device and with one code."""
        return self.spec_id, self.seed, self.repeat
