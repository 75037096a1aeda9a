"""Run a card's spec again and say, number by number, whether the two runs agree."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from andersonn_core.card_diff import ABSENT, WHERE, CardDiff, diff_cards, flat
from andersonn_core.runcard import RunCard
from andersonn_core.solve import SolveSpec
from andersonn_core.training import BatchDone, Control, Started, TrainEvent, TrainSpec

RESIDUAL_RTOL = 1e-3  # difference up to which residuals agree, over theirs or over the tolerance
# In a training rounding errors grow with every step. Over 64 steps of the digits model, two threads
# and another instruction set moved the last loss by 2 %, the evaluations by 1 %, accuracies by 0.3
# points.
LOSS_RTOL, LOSS_ATOL = 0.05, 0.01
EVALS_RTOL = 0.05
ACCURACY_ATOL = 0.02  # two points
BITS = ("weights_digest", "best_epoch")  # judged only where nothing that rounds differs
OWN_END = ("finished", "patience")  # reasons by which a training ends where it did before


@dataclass(frozen=True)
class Comparison:
    """One number of a card beside the same number of the run that repeated it."""

    name: str
    recorded: Any
    repeated: Any
    agrees: bool | None  # None: reported, not judged (seconds; bits where something else differs)


@dataclass(frozen=True)
class RerunReport:
    """What `rerun` found, number by number, and what else differs between the two runs."""

    numbers: tuple[Comparison, ...]
    differences: tuple[str, ...]  # code, versions, device, threads, data: possible reasons
    card: RunCard  # of the run that repeated it
    within: str  # the tolerances in words

    @property
    def agrees(self) -> bool:
        """Whether every number that is judged agrees."""
        return all(number.agrees is not False for number in self.numbers)

    @property
    def sentence(self) -> str:
        """The verdict in words, with what else differs: possible reasons where numbers do."""
        judged = [number for number in self.numbers if number.agrees is not None]
        reasons = "; ".join(self.differences)
        if self.agrees:
            said = f"All {len(judged)} numbers agree ({self.within})."
            return f"{said} The circumstances differ: {reasons}." if reasons else said
        wrong = ", ".join(number.name for number in judged if not number.agrees)
        if not reasons:
            return f"These numbers differ: {wrong}. Code, versions, device and data do not."
        return f"These numbers differ: {wrong}. Possible reasons: {reasons}."


def rerun(card: RunCard, residual_rtol: float = RESIDUAL_RTOL) -> RerunReport:
    """Run the card's spec again, with its torch threads as far as there are cores, and compare.

    Counts and data must be equal, residuals close: their difference at most `residual_rtol` of the
    larger one or of the solve's rtol, below which there may be rounding alone. Of a training
    loss, evaluations and accuracies must be close, and the weights equal to the last bit where
    code, versions, device and threads are the same; knobs that were changed while it ran are
    changed at the same steps.

    Raises ValueError for a card of a map that was given as code, of a run without numbers or
    without an end of its own, KnobError for knobs or a device that are not to be had here, and
    DataError for images that are not.
    """
    spec = spec_of(card)
    _refuse_unfinished(card)
    with _threads(card.threads):
        if isinstance(spec, SolveSpec):
            repeated, within = spec.run().card, f"residuals within {residual_rtol:g}"
        else:
            repeated = _train_again(spec, card.summary.get("changes", []))
            within = (
                f"evaluations within {EVALS_RTOL:.0%}, loss within {LOSS_RTOL:.0%} or "
                f"{LOSS_ATOL:g}, accuracies within {100 * ACCURACY_ATOL:g} points"
            )
    circumstances = diff_cards(card, repeated)
    return RerunReport(
        numbers=tuple(_compare(card, repeated, circumstances, residual_rtol)),
        differences=tuple(_in_words(circumstances)),
        card=repeated,
        within=within,
    )


def spec_of(card: RunCard) -> SolveSpec | TrainSpec:
    """The spec that a card holds: a SolveSpec has a problem, a TrainSpec a data set.

    Raises ValueError for a card of neither, KnobError for knobs that cannot be.
    """
    if card.spec.get("problem") is not None:
        return SolveSpec.from_dict(card.spec)
    if "data" in card.spec:
        return TrainSpec.from_dict(card.spec)
    if "map" in card.spec:
        name = card.spec["map"]
        raise ValueError(f"a card can't hold a map given as code ({name}): call solve again.")
    raise ValueError(
        "this card holds no solve and no training, but the settings of the program that wrote it "
        f"({', '.join(card.spec)}): run that program again."
    )


def _refuse_unfinished(card: RunCard) -> None:
    """Refuse what another run would not end like: no numbers, a hand's or a clock's stop."""
    if not card.summary:
        raise ValueError("the card has no numbers to compare with: its run did not end.")
    if "CANCELLED" in card.summary.get("status", ()):
        raise ValueError("its run was cancelled: another one would not stop at the same moment.")
    reason = card.summary.get("reason", OWN_END[0])
    if reason not in OWN_END:
        raise ValueError(
            f"its training did not come to an end of its own (reason: {reason}), and another one "
            "would not end at the same step: rerun the card of a training that counts epochs."
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads for torch as the card had, as far as there are cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(count, os.cpu_count() or 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_again(spec: TrainSpec, changes: list[Mapping[str, Any]]) -> RunCard:
    """Train with the same knobs, changed at the same steps."""
    control = Control()
    return spec.run(_changing(spec, changes, control), control=control).card


def _changing(
    spec: TrainSpec, changes: list[Mapping[str, Any]], control: Control
) -> Callable[[TrainEvent], None]:
    """What changes the knobs before the steps at which they were changed."""

    def on_event(event: TrainEvent) -> None:
        if isinstance(event, Started | BatchDone):
            for change in changes:
                if change["step"] == event.step + 1:
                    control.change(**_values(spec, change["knobs"]))

    return on_event


def _values(spec: TrainSpec, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs as a card has them -> as a spec has them: nested specs are no longer records."""
    records = {name: value for name, value in knobs.items() if isinstance(value, Mapping)}
    specs = TrainSpec.from_dict(spec.to_dict() | records)
    return {name: getattr(specs, name) if name in records else knobs[name] for name in knobs}


def _compare(
    recorded: RunCard, repeated: RunCard, circumstances: CardDiff, residual_rtol: float
) -> Iterator[Comparison]:
    """The numbers of both, and the data: of what is in either."""
    old, new = (dict(_numbers(card)) for card in (recorded, repeated))
    same, floor = not circumstances.of(*WHERE), residual_rtol * recorded.spec.get("rtol", 0.0)
    for name in old | new:
        one, other = old.get(name, ABSENT), new.get(name, ABSENT)
        if name.startswith("relative_residual"):
            agrees: bool | None = _close(one, other, residual_rtol, floor)
        else:
            agrees = _agrees(name, one, other, same)
        yield Comparison(name, one, other, agrees)


def _numbers(card: RunCard) -> Iterator[tuple[str, Any]]:
    for name, value in flat({"summary": card.summary}):
        yield name.removeprefix("summary."), value
    for name, value in card.data_hashes.items():
        yield f"data {name}", value


def _agrees(name: str, old: Any, new: Any, same: bool) -> bool | None:
    """Whether a number agrees; None where it is not judged. `same`: nothing that rounds differs."""
    if name.endswith("_seconds") or name == "clock" or (name in BITS and not same):
        return None
    if name.endswith("accuracy"):
        return _close(old, new, 0.0, ACCURACY_ATOL)
    if name == "loss":
        return _close(old, new, LOSS_RTOL, LOSS_ATOL)
    return _close(old, new, EVALS_RTOL if name == "evals" else 0.0, 0.0)


def _close(old: Any, new: Any, relative: float, absolute: float) -> bool:
    """Whether two values are near each other, or, where one is no number, equal."""
    if all(isinstance(each, int | float) for each in (old, new)):
        return math.isclose(old, new, rel_tol=relative, abs_tol=absolute)
    return bool(old == new)


def _in_words(circumstances: CardDiff) -> Iterator[str]:
    for each in circumstances.of(*WHERE, "data"):
        yield f"{each.label} was {each.first}, is {each.second}"
