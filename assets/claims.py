"""The claim ledger: assets/claims.yaml, read strictly, and as the README shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, model_validator

from andersonn_core import RunCard
from andersonn_core.yaml_text import parse_yaml
from benchmarks.ledger import CLAIMS, ledger, overall

ROOT = Path(__file__).resolve().parents[1]
CLAIMS_FILE = ROOT / "assets" / "claims.yaml"
CARDS = Path("assets/cards")
TRAINING = ROOT / "benchmarks" / "results" / "train.json"
NUMBER = re.compile(r"\{([\w-]+)((?:\.\w+)+)(?::([^}]*))?\}")  # {card.summary's name:format}
MEASURED = "{measured}"
# How the README says that a claim was not seen in the paper itself.
SAID = {"code": "authors' code", "second hand": "second hand", "memory": "from memory"}


class Strict(BaseModel):
    """A record without unknown keys or values of another kind."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Paper(Strict):
    """Where claims come from, and how much of it was read."""

    title: str
    read: str
    arxiv: str | None = None


class CardEvidence(Strict):
    """A committed run card, which the tests rerun."""

    card: str

    @property
    def path(self) -> Path:
        """From the root of the repository."""
        return CARDS / f"{self.card}.json"

    @property
    def link(self) -> str:
        """As the README shows it."""
        return f"[{self.card}]({self.path.as_posix()})"

    def numbers(self) -> Any:
        """What placeholders read; raises ValueError where the card was altered."""
        return RunCard.load(ROOT / self.path).summary


class FileEvidence(Strict):
    """A committed file of measurements and the command that makes it."""

    file: str
    command: str

    @property
    def path(self) -> Path:
        """From the root of the repository."""
        return Path(self.file)

    @property
    def link(self) -> str:
        """As the README shows it."""
        return f"[{self.path.name}]({self.file}) (`{self.command}`)"

    def numbers(self) -> Any:
        """What placeholders read."""
        return json.loads((ROOT / self.path).read_text(encoding="utf-8"))


class Claim(Strict):
    """One claim and what our evidence says of it."""

    id: str
    paper: str
    known_from: Literal["paper", "abstract", "code", "second hand", "memory"]
    claim: str
    published: str
    verdict: Literal["confirmed", "refuted", "unresolved"]
    why: str
    evidence: list[CardEvidence | FileEvidence] = []
    measure: str | None = None  # of benchmarks/ledger.py
    needs: str | None = None  # what an unresolved claim would take

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.verdict != "unresolved" and not self.evidence:
            raise ValueError(f"{self.id} is {self.verdict} without evidence")
        if (self.verdict == "unresolved") != (self.needs is not None):
            raise ValueError(f"{self.id}: an unresolved claim, and no other, says what it needs")
        missing = [str(each.path) for each in self.evidence if not (ROOT / each.path).is_file()]
        if missing:
            raise ValueError(f"{self.id}: there is no {', '.join(missing)}")
        published = {claim.measure: claim.published for claim in CLAIMS}
        if self.measure is not None and published.get(self.measure) != self.published:
            raise ValueError(f"{self.id}: benchmarks/ledger.py does not know this measure so")
        if (self.measure is not None) != (MEASURED in self.why):
            raise ValueError(f"{self.id}: a claim with a measure, and no other, says {MEASURED}")
        return self

    @cached_property
    def sentence(self) -> str:
        """`why` with the evidence's own numbers."""
        numbers = {each.path.stem: each.numbers() for each in self.evidence}
        told = "; ".join(f"{e['regime']} {e['here']}, {e['verdict']}" for e in self.entries)
        text = self.why.replace(MEASURED, told)
        return NUMBER.sub(lambda found: _number(self.id, numbers, found), text)

    @property
    def entries(self) -> list[dict[str, str]]:
        """What benchmarks/ledger.py says of its measure, a regime each."""
        if self.measure is None:
            return []
        text = next(claim.text for claim in CLAIMS if claim.measure == self.measure)
        regimes = json.loads(TRAINING.read_text(encoding="utf-8"))["regimes"]
        tables = {name: pd.DataFrame(rows) for name, rows in regimes.items()}
        return [entry for entry in ledger(tables) if entry["claim"] == text]

    @property
    def measured_verdict(self) -> str:
        """The verdict that the intervals of its measure give."""
        return overall(self.entries)


class Ledger(Strict):
    """All claims with their papers."""

    papers: dict[str, Paper]
    claims: list[Claim]

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        names = [claim.id for claim in self.claims]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"these ids are used twice: {', '.join(twice)}")
        if {claim.paper for claim in self.claims} != set(self.papers):
            raise ValueError("each claim is of a paper of the list, and each paper has a claim")
        return self


def read_claims(text: str) -> Ledger:
    """The ledger of a YAML text; raises ValueError that says what is wrong."""
    return Ledger.model_validate(parse_yaml(text))


def _number(claim: str, numbers: Mapping[str, Any], found: re.Match[str]) -> str:
    """The number that a placeholder names, in its format."""
    name, path, form = found[1], found[2][1:].split("."), found[3]
    value = numbers.get(name)
    for key in path:
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"{claim}: its evidence holds no {found[0]}") from None
    return format(value, form or "")


def claims_tables() -> str:
    """The papers with a table of their claims each."""
    book = read_claims(CLAIMS_FILE.read_text(encoding="utf-8"))
    return "\n\n".join(_paper_block(name, paper, book) for name, paper in book.papers.items())


def _paper_block(name: str, paper: Paper, book: Ledger) -> str:
    number = f", arXiv {paper.arxiv}" if paper.arxiv else ""
    head = "| claim | published | verdict | why | evidence |\n| --- | --- | --- | --- | --- |"
    rows = [_row(claim) for claim in book.claims if claim.paper == name]
    return "\n".join([f"**{paper.title}**{number}. Read: {paper.read}.", "", head, *rows])


def _row(claim: Claim) -> str:
    source = f" ({SAID[claim.known_from]})" if claim.known_from in SAID else ""
    needs = f" It would take: {claim.needs}" if claim.needs else ""
    evidence = ", ".join(each.link for each in claim.evidence) or "none"
    cells = claim.claim, claim.published + source, claim.verdict, claim.sentence + needs, evidence
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
