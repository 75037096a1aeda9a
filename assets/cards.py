"""The run cards behind the claim ledger: `python assets/cards.py` makes them anew.

Names after it choose some of them. Each takes a few seconds on one CPU thread. The solves are in
double precision, where another processor's rounding changes no count.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec, TrainSpec

FOLDER = Path(__file__).parent / "cards"
DOUBLE = {"dtype": "float64"}
DIGITS = SolveSpec(
    problem=PROBLEMS["digits_deq"](batch_size=16, **DOUBLE), rtol=1e-5, max_iter=1000, compact=True
)
LOOSE = DIGITS.replace(rtol=0.1)
POISSON = SolveSpec(problem=PROBLEMS["poisson"](size=64, **DOUBLE), rtol=1e-6, max_iter=10_000)
DIVERGENT = SolveSpec(  # all eigenvalues at a distance of 1.5 from 0
    problem=PROBLEMS["affine"](size=8, spectrum="circle", spectral_radius=1.5, **DOUBLE), rtol=1e-10
)
NEWTON = SolveSpec(problem=PROBLEMS["newton"](**DOUBLE), rtol=1e-10)
TRAINING = TrainSpec(train_images=128, test_images=60, epochs=1, max_iter=200, compact=True)
METHODS = {"forward": Picard(), "anderson": Anderson()}

SPECS: dict[str, SolveSpec | TrainSpec] = {
    f"{name}-{method}": spec.replace(method=METHODS[method])
    for name, spec in (
        ("digits", DIGITS), ("digits-loose", LOOSE), ("poisson", POISSON), ("newton", NEWTON),
        ("training", TRAINING),
    )
    for method in METHODS
} | {
    "divergent-forward": DIVERGENT.replace(method=Picard()),
    "divergent-anderson": DIVERGENT.replace(method=Anderson(window=8, restart="never")),
}  # fmt: skip


def main(names: list[str]) -> None:
    """Run the specs and save their cards."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in names or SPECS:
        card = SPECS[name].run().card
        card.save(FOLDER / f"{name}.json")
        print(name, card.summary)


if __name__ == "__main__":
    main(sys.argv[1:])
