"""Where Anderson overtakes forward iteration on the digits model, on both devices."""

from __future__ import annotations

from collections.abc import Iterator

from andersonn_core.crossover import crossover
from andersonn_core.methods import Anderson, Picard
from andersonn_core.problems import PROBLEMS
from andersonn_core.record.budget import Share
from andersonn_core.record.settings import Row, Settings, place
from andersonn_core.solve import SolveSpec

BATCH_SIZES = (1, 16, 64, 256)
RTOL, MAX_ITER = 1e-4, 200
KEPT = "kind sentence target seconds evaluations residual seconds_interval speedup".split()
KEPT += "mixing_penalty penalty_paid payback".split()


def crossing(settings: Settings, share: Share) -> Iterator[Row]:
    """A row for each batch size and device: the crossover point of repeated pairs of runs."""
    sizes, repeats = settings.of(BATCH_SIZES, BATCH_SIZES[:1]), settings.of(5, 2)
    cases = [(size, device) for size in sizes for device in settings.devices]
    for size, device in share.over(cases):
        problem = PROBLEMS["digits_deq"](batch_size=size, device=str(device))
        methods = Picard(), Anderson()
        specs = [SolveSpec(problem=problem, method=method, rtol=RTOL, max_iter=MAX_ITER)
                 for method in methods]  # fmt: skip
        for spec in specs:
            spec.run()  # warms up
        pairs = [[spec.run() for spec in specs] for _ in range(repeats)]
        forward, anderson = zip(*pairs, strict=True)
        record = crossover(forward, anderson).to_dict()
        yield {
            "problem": problem.name, "batch_size": size, **place(device), "repeats": repeats,
            "clock": anderson[0].history.clock, "forward_evals": forward[0].num_evals,
            "anderson_evals": anderson[0].num_evals, **{name: record[name] for name in KEPT},
        }  # fmt: skip
