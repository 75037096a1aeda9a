"""What differs between two run cards, by dotted name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from andersonn_core.runcard import RunCard

ABSENT = "absent"  # what a card shows that lacks the name
WHAT = ("knobs", "seed", "data")
WHERE = ("code", "versions", "device", "threads")
OUTCOME = ("numbers", "seconds")
PARTS = {
    "spec": "knobs", "seed": "seed", "data_hashes": "data", "code_hash": "code",
    "versions": "versions", "device": "device", "threads": "threads", "summary": "numbers",
}  # fmt: skip
WHOLE = ("summary.status",)  # the counts of all statuses are one number of the run


@dataclass(frozen=True)
class Difference:
    """One value that two cards do not share; `ABSENT` for a card without it."""

    part: str  # one of WHAT, WHERE or OUTCOME
    name: str  # as in the card's JSON: "spec.method.window", "summary.num_evals"
    first: Any
    second: Any

    @property
    def label(self) -> str:
        """The name as a sentence has it: "torch", "data digits", "method.window"."""
        head, _, rest = self.name.partition(".")
        return f"data {rest}" if head == "data_hashes" else rest or self.part


@dataclass(frozen=True)
class CardDiff:
    """All differences of two cards; the dates of the runs, and spec_id, a hash of knobs, aside."""

    differences: tuple[Difference, ...]

    def of(self, *parts: str) -> tuple[Difference, ...]:
        """The differences of these parts."""
        return tuple(each for each in self.differences if each.part in parts)

    @property
    def sentence(self) -> str:
        """What differs, in words: what was run, where it ran, what came out."""
        if not self.differences:
            return "Nothing differs: knobs, seed, data, code, versions, device, threads, numbers."
        what, where = (_labels(self.of(*parts)) for parts in (WHAT, WHERE))
        came = _labels(self.of("numbers"))
        here = "Code, versions, device and threads are the same."
        said = [
            f"The runs differ in {what}." if what else "The same was run: knobs, seed and data.",
            f"They ran elsewhere: {where} differ." if where else here,
        ]
        if not came:
            kept = "The numbers are the same" + (", seconds aside." if self.of("seconds") else ".")
            return " ".join([*said, kept])
        reason = "" if what or where else ", for no reason that the cards tell"
        return " ".join([*said, f"These numbers differ{reason}: {came}."])


def diff_cards(first: RunCard, second: RunCard) -> CardDiff:
    """What differs between two run cards, in the order of what was run, where, and what came out.

    Numbers are compared to the last digit: `rerun` is what judges whether two runs agree.
    """
    old, new = (dict(flat(asdict(card))) for card in (first, second))
    found = [
        Difference(part, name, old.get(name, ABSENT), new.get(name, ABSENT))
        for name in old | new
        if (part := _part(name)) and (name not in old or name not in new or old[name] != new[name])
    ]
    order = (*WHAT, *WHERE, *OUTCOME)
    return CardDiff(tuple(sorted(found, key=lambda each: (order.index(each.part), each.name))))


def flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} -> ("a.b", 1)."""
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in WHOLE:
            yield from flat(value, f"{name}.")
        else:
            yield name, value


def _part(name: str) -> str | None:
    """The part that a value belongs to; None for the date and spec_id."""
    head, last = name.split(".")[0], name.split(".")[-1]
    if head == "spec" and last == "seed":
        return "seed"
    if head == "summary" and (last.endswith("seconds") or last == "clock"):
        return "seconds"
    return PARTS.get(head)


def _labels(differences: tuple[Difference, ...]) -> str:
    """The names; a seed's once; of two methods, or other specs, of different kinds only that."""
    names = {each.name for each in differences}
    kinds = {name.removesuffix("name") for name in names if name.endswith(".name")}
    told = (
        each.label
        for each in differences
        if each.name.endswith(".name") or not any(each.name.startswith(kind) for kind in kinds)
    )
    labels = dict.fromkeys(told)
    if any(label.endswith(".seed") for label in labels):  # the card itself names it, too
        labels.pop("seed", None)
    return ", ".join(labels)
