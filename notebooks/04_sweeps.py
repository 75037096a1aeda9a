# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---


# %% [markdown]
# # Which window, which mixing, which batch size?
#
# Anderson acceleration has two knobs that everybody turns first: the **window** $m$, how many past
# differences it combines, and the **mixing** $\beta$, how much of the residual it adds. (Notebook
# 01 builds the method; here you only need to know that it finds $z = f(z)$ and is paid for in
# evaluations of $f$.) Which values are best? The answer of a single run is an accident. So run
# many: a **sweep**.
#
# This notebook asks on two maps that could hardly be less alike, a network that reads digits and
# the temperature of a plate. For each it looks not for the one best setting but for the **region**
# of settings that are as good as the best, and it says where a difference is noise.
#
# Every number in the text is checked by an `assert` in a cell beside it.

# %%
import tempfile
import time
from pathlib import Path

import drawing
import drawing_sweeps
import pandas as pd
import panel as pn
import torch

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec, Sweep
from andersonn_core.card_diff import diff_cards
from andersonn_core.rerun import rerun
from andersonn_core.store import Store
from andersonn_core.store.compare import compare
from andersonn_core.sweeps import Between
from andersonn_core.sweeps.engines import Slurm
from andersonn_core.sweeps.file import SweepFile
from andersonn_core.sweeps.summary import by_point, recommended

torch.set_num_threads(1)
pn.extension(inline=True)  # figures carry their own JavaScript: nothing is loaded from the internet
folder = tempfile.TemporaryDirectory()  # yours would be a place that stays
store = Path(folder.name) / "sweeps.sqlite"

# %% [markdown]
# ## 1. One line makes a sweep
#
# `Sweep` takes a **base**, one solve with all its knobs, and **axes**: the names of knobs, with a
# dot for those of the method and of the problem, and the values that each is to take. Here are two
# windows and three mixings on a deep equilibrium model that reads handwritten digits (notebook 03),
# four digits at a time. `seeds` says which digits: seed 0 takes the first four, each other seed
# draws its own. That makes $2 \times 3 \times 2 = 12$ **trials**.
#
# `run` hands back a table, and keeps all of it in a file, the **store**.

# %%
digits = SolveSpec(problem=PROBLEMS["digits_deq"](batch_size=4), rtol=1e-4, max_iter=400)
few = {"method.window": [2, 8], "method.mixing": [0.7, 1.0, 1.4]}
small = Sweep(digits, axes=few, seeds=range(2))

began = time.perf_counter()
frame = small.run("serial", store, progress=False)
first_seconds = time.perf_counter() - began

shown = [*few, "seed", "repeat", "spec_id", "status", "num_evals", "seconds"]
frame[shown].round(4)

# %% [markdown]
# One row a trial, whatever became of it: a solve that diverges has a row, and one that raises an
# error has a row with the reason. `num_evals` are the evaluations of the batch, which are those of
# its slowest digit; `seconds` are CPU seconds of the solve. `spec_id` is a fingerprint of all
# knobs: all that is needed to find a trial again.
#
# Run the same line again. Nothing is left to do: the store has all 12.

# %%
told = []
began = time.perf_counter()
again = small.run("serial", store, progress=told.append)
print(f"the first time {first_seconds:.2g} s, now {time.perf_counter() - began:.2g} s")
print("before anything ran:", told[0].sentence)

assert len(frame) == small.total == 2 * 3 * 2 == 12 and set(frame["status"]) == {"CONVERGED"}
assert (told[0].found, told[0].total) == (12, 12)
pd.testing.assert_frame_equal(again, frame)

# %% [markdown]
# That is also why nothing is lost when something goes wrong. `should_stop` stands for whatever ends
# a sweep: Ctrl-C, a walltime, a power cut. Stop a new one after four trials; the four are kept, and
# the same line goes on from there.

# %%
left = iter([False] * 4)
cut = Sweep(digits, axes=few, seeds=[5])
part = cut.run("serial", store, progress=False, should_stop=lambda: next(left, True))
told = []
whole = cut.run("serial", store, progress=told.append)
print(f"{len(part)} of {cut.total} trials, then stopped. The same line again:")
print(f"   {told[0].found} were there, {told[-1].done - told[0].found} were done now")

assert len(part) == 4 and len(whole) == 6
assert (told[0].found, told[-1].done) == (4, 6)
kept = whole[whole["number"].isin(part["number"])].reset_index(drop=True)
pd.testing.assert_frame_equal(kept, part)

# %% [markdown]
# ## 2. Which window, which mixing? On digits
#
# Now the real grid: five windows, five mixings, and four seeds, 16 digits in all. What is there
# already is taken from the store.
#
# `by_point` sums up the seeds of each point: the **median**, and as its **spread** the middle
# 80 %, from the 10 % quantile to the 90 % quantile.

# %%
axes = {"method.window": [1, 2, 4, 8, 16], "method.mixing": [0.4, 0.7, 1.0, 1.4, 1.9]}
told = []
on_digits = Sweep(digits, axes, seeds=range(4)).run("serial", store, progress=told.append)
evaluations = by_point(on_digits, list(axes))

assert len(on_digits) == 5 * 5 * 4 and 4 * 4 == 16
assert told[0].found == len(frame)  # those of section 1 were there
evaluations.head()

# %% [markdown]
# The first line is the winner, and the eye wants to stop there. Don't: read the spread. It is
# wider than the distance from the best to the middle of the field, so is all of this noise? No. The
# seeds have *different digits*, and some digits are stubborn, whatever the setting. The spread is
# that of digits, not of settings.
#
# So compare settings on the **same** digits: divide each trial by the fewest evaluations that any
# setting took *for that seed*. This **ratio** (Dolan and More 2002) is 1 for who was best there,
# and 1.2 for who took 20 % more.


# %%
def with_ratios(frame, same, value="num_evals"):
    """Each trial over the best one on the same digits, or on whatever the column `same` says."""
    solved = frame[value].where(frame["status"] == "CONVERGED")
    return frame.assign(ratio=solved / solved.groupby(frame[same]).transform("min"))


def with_region(table, best=None):
    """A column: is the point as good as the best one, as far as we can tell?"""
    best = table.iloc[0] if best is None else best
    good = (
        (table["converged"] == table["trials"])  # it never fails,
        & (table["median"] <= 1.1 * best["median"])  # is at most 10 % worse,
        & (table["low"] <= best["high"])  # and may be as good: their spreads overlap
    )
    return table.assign(region=good)


ratios = with_region(by_point(with_ratios(on_digits, "seed"), list(axes), "ratio"))
drawing_sweeps.heat_maps(
    {
        "evaluations: median, and 80 % of the seeds": (evaluations, "{:.0f}"),
        "over the best on the same digits; the region": (ratios, "{:#.3g}"),
    }
)

# %% [markdown]
# On the left the spreads are as wide as the whole picture, on the right they are narrow, from the
# same numbers. The orange line is the answer to the question, the **recommended region**, and
# `with_region` defines it: all points that always converge, whose median ratio is at most 10 %
# above that of the best, and whose spread overlaps the best one's. (`recommended` of the package
# has the first two of these.)

#
# On digits, it says: a window of 4 or more, and a mixing well above the usual 1. How large the
# window is beyond 4 makes no difference that we could see.
#
# Two warnings. The 10 % are a convention: just outside the line a point is just as much worse as it
# is just inside. And the region lies at the grid's upper **edge**: a mixing beyond 2 is not allowed
# here, but had the grid ended at 1, we would have called 1 the best. When the best is at the edge,
# move the edge. As for the *one* best number: ask each seed for it, and they do not agree.

# %%
chosen = ratios[ratios["region"]]
assert set(chosen.index) <= set(recommended(ratios).index)
winners = on_digits.loc[on_digits.groupby("seed")["num_evals"].idxmin(), ["seed", *axes]]
print(winners.to_string(index=False))

assert 5 <= len(chosen) <= 10 and (chosen["method.window"] >= 4).all()
assert (chosen["method.mixing"] >= 1.4).all() and chosen["method.mixing"].max() == 1.9
assert len(winners.drop_duplicates(list(axes))) > 1
spread = evaluations["high"] - evaluations["low"]
assert spread.iloc[0] > evaluations["median"].median() - evaluations["median"].min()
middle = ratios.query("`method.mixing` == 1.9 and `method.window` >= 4")["median"]
assert middle.max() - middle.min() < 0.15  # no difference that we could see

# %% [markdown]
# ## 3. The same question by seconds
#
# Nobody pays for evaluations; a machine is paid for by the second. The table has both.

# %%
seconds = by_point(on_digits.assign(ms=1000 * on_digits["seconds"]), list(axes), "ms")
by_seconds = with_region(by_point(with_ratios(on_digits, "seed", "seconds"), list(axes), "ratio"))
drawing_sweeps.heat_maps(
    {
        "milliseconds: median, and 80 % of the seeds": (seconds, "{:.0f}"),
        "seconds over the best on the same digits": (by_seconds, "{:#.3g}"),
    }
)

# %% [markdown]
# The same valley, but blurred, and a region that the next run will hardly repeat. Is one window
# really quicker than its neighbor, or is that noise? Ask the machine: run the *same* trials once
# more, those of section 1, into a second store, and compare the two stores, row by row.

# %%
twin = Path(folder.name) / "again.sqlite"
small.run("serial", twin, progress=False)
with Store(store) as first, Store(twin) as second:
    twice = compare(first, second)
print(twice.sentence)

step = on_digits.assign(ms=1000 * on_digits["seconds"] / on_digits["num_evals"])
step = step.groupby("method.window")["ms"].median()
print("\nmilliseconds for an evaluation and the step after it, by window:")
print(step.round(2).to_string())

assert len(twice.both) == 12 and twice.both["agrees"].all() and not len(twice.only_b)
assert step.max() < 2 * step.min()

# %% [markdown]
# All counts agree to the last one: evaluations do not depend on what else the machine does. (On
# another kind of processor, which rounds differently, one may be off by one.) Seconds do depend on
# it, by the interval above, and a difference between settings that is smaller than that is
# **noise**.
#
# And where do seconds *have to* differ from evaluations? Where a step costs more with one setting
# than with another. Mixing 16 differences is more work than mixing one, but here the map is a
# neural network, and dear beside it: a step costs about the same with any window. So on digits the
# picture by evaluations is the one to trust, and it holds for seconds, too. (On a cheap map with a
# large state a long window costs more; notebook 02 has the formula.)

# %% [markdown]
# ## 4. On a plate, another answer
#
# The second map is Poisson's equation by Jacobi's iteration: the temperature of a plate, each point
# the mean of its four neighbors. Nothing is random here, so what plays the part of the seed? The
# plate's size: a setting that is good on one grid only would be of little use. Two axes as before,
# and `problem.size` as the third.

# %%
sizes = {"problem.size": [10, 14, 18]}
plate = SolveSpec(problem=PROBLEMS["poisson"](), rtol=1e-6, max_iter=2000)
on_plates = Sweep(plate, sizes | axes).run("serial", store, progress=False)
plates = by_point(on_plates, list(axes))
plate_ratios = with_region(by_point(with_ratios(on_plates, "problem.size"), list(axes), "ratio"))
drawing_sweeps.heat_maps(
    {
        "evaluations: median, and 80 % of the plates": (plates, "{:.0f}"),
        "over the best on the same plate; the region": (plate_ratios, "{:#.3g}"),
    }
)

# %% [markdown]
# Here the **window** decides: with 1 or 2 it takes about nine times as long as with 16. And the
# mixing? With a window of 16 it matters little, from 0.7 on. With a window of 4 it does, and in the
# direction opposite to the digits': the larger, the worse.

# %%
drawing_sweeps.windows_over_mixing(plates[plates["method.window"].isin([2, 4, 16])])

# %% [markdown]
# Why? On a linear map a step with mixing $\beta$ multiplies the part of the residual that belongs
# to an eigenvalue $\lambda$ of $I - J$ by $1 - \beta \lambda$; what is left is for the window to
# repair. The eigenvalues of Jacobi's iteration lie symmetrically around 0, so that $\lambda$ goes
# up to nearly 2: at this end the factor is $-0.4$ for $\beta = 0.7$, and $-2.8$ for
# $\beta = 1.9$. A large mixing makes the shortest waves *grow*, and a short window has no memory to
# spare for them.
#
# On digits, forward iteration's late residuals point in the same direction, step after step: what
# is slow there belongs to a small positive $\lambda$, and a larger $\beta$ makes it smaller.

# %%
steep = plates.pivot(index="method.mixing", columns="method.window", values="median")
spectrum = plate.problem.replace(size=18).build().spectrum.real  # of J
walk = []
late = digits.replace(method=Picard(), rtol=0.0, max_iter=40)
late.run(on_step=lambda step: walk.append(step.z().flatten(1).clone()))
g = torch.stack(walk).diff(dim=0)  # (39, 4, 3072) forward iteration's residuals
turn = torch.cosine_similarity(g[-1], g[-2], dim=1)

assert (steep[1] > 4 * steep[16]).all() and (steep[2] > 3 * steep[16]).all()
assert 7 < steep[[1, 2]].stack().median() / steep[16].median() < 11
assert steep[16].loc[0.7:].max() < 1.4 * steep[16].loc[0.7:].min()
assert steep[4][0.7] < steep[4][1.0] < steep[4][1.4] < steep[4][1.9]
assert abs(spectrum.max() + spectrum.min()) < 1e-9 and 1.9 < 1 - spectrum.min() < 2
assert round(1 - 0.7 * 2, 1) == -0.4 and round(1 - 1.9 * 2, 1) == -2.8
assert turn.min() > 0.9

# %% [markdown]
# ## 5. What carries over, and what does not
#
# Both maps again, each with its own region (the line) and with the other's (dots).

# %%
of_both = ratios.merge(plate_ratios, on=list(axes), suffixes=("", " there"))
there = of_both.drop(columns=["median", "low", "high", "region"])
there = there.rename(columns=lambda name: name.removesuffix(" there"))
drawing_sweeps.heat_maps(
    {
        "digits": (of_both.rename(columns={"region there": "elsewhere"}), "{:#.3g}"),
        "plates": (there.assign(elsewhere=of_both["region"]), "{:#.3g}"),
    },
    also="elsewhere",
)

# %%
at = of_both.set_index(list(axes))
common = of_both[of_both["region"] & of_both["region there"]]
print(common[[*axes, "median", "median there"]].round(3).to_string(index=False))

assert len(common) >= 2 and set(common["method.window"]) == {16}
assert common["method.mixing"].min() >= 1.4
assert not at.loc[16, 0.7]["region"] and at.loc[16, 0.7]["region there"]
assert at.loc[4, 1.9]["region"] and 1.7 < at.loc[4, 1.9]["median there"] < 2.3
assert 1.1 < at.loc[1, 1.4]["median"] < 1.35 and 8 < at.loc[1, 1.4]["median there"] < 15

# %% [markdown]
# * **A long window carries over.** It is in both regions, and costs nothing where it is not needed.
# * **A short one does not.** A window of 1 with a mixing of 1.4 takes about a fifth more
#   evaluations than the best on digits, and some ten times as many on plates. Who tunes on digits
#   only would never know.
# * **Mixing does not**, except where the window is long: 1.9 with a window of 4 is among the best
#   on digits, and takes about twice the best on plates.
#
# Both regions share a window of 16 with a mixing of 1.4 or more. For a third map that is a place to
# *start* from; the answer is again a sweep.

# %% [markdown]
# ## 6. Which batch size?
#
# A whole method can be an axis, too. Where two are swept, each row of Anderson is compared with the
# row of forward iteration on the same digits, and the table gets the columns of the **crossover**
# (notebook 01): of which kind it is, where it lies, how much faster Anderson is in the end.

# %%
mixed = Anderson(window=16, mixing=1.4)  # in both regions


def over_batches(base, sizes, methods, **more):
    swept = {"method": methods, "problem.batch_size": sizes}
    return Sweep(base, swept, **more).run("serial", store, progress=False)


both, some = [Picard(), mixed], (([1, 4, 16], range(3)), ([64], [0]))
digit_batches = pd.concat(over_batches(digits, sizes, both, seeds=seeds) for sizes, seeds in some)
compact = pd.concat(
    over_batches(digits.replace(compact=True), sizes[-1:], [mixed], seeds=seeds)
    for sizes, seeds in some
)
small_plate = plate.replace(problem=plate.problem.replace(size=10))
plate_batches = over_batches(small_plate, [1, 4, 16, 64], both, repeats=2)


def per_sample(frame):
    ms = 1000 * frame["seconds"] / frame["samples"]
    table = by_point(frame.assign(ms=ms), ["problem.batch_size"], "ms")
    return table.sort_values("problem.batch_size")


def by_method(frame):
    names = {"picard": "forward", "anderson": "Anderson"}
    return {name: per_sample(frame[frame["method"] == key]) for key, name in names.items()}


drawing_sweeps.batch_sizes(
    {
        "digits": by_method(digit_batches) | {"Anderson, compact": per_sample(compact)},
        "plates of 10 x 10": by_method(plate_batches),
    }
)

# %% [markdown]
# (The batch of 64 is one, the digits of notebook 01; of the smaller ones there are three each.)
#
# **By evaluations** the smallest batch of digits is the best: a batch waits for its slowest digit,
# and of many digits one is always slow. **By seconds** a batch of 16 beats single digits, since the
# network reads 16 digits in far less than 16 times the time of one. Beyond that, waiting eats the
# gain: in the batch of 64, about three quarters of the evaluations are of digits that are done.
# `compact=True` takes these out of the batch, and 64 digits are as quick as 16, or nearly. Plates
# of one size take about as many evaluations each: nobody waits, and the larger the batch, the
# better.
#
# **Where does Anderson pay?** At this tolerance it does with every batch size. But look at
# `crossover_residual`: only for tolerances *tighter* than that is Anderson ahead, on digits for
# those below a few hundredths at most, on plates nearly from the start. Who is content with a
# residual of 0.1 should read digits without it. Single digits pay the most for mixing, beside what
# the map costs (`mixing_penalty`). (All of these are this machine's seconds. On a noisy one, a row
# may say "none" where its neighbors say "at".)

# %%
columns = ["crossover_evaluations", "crossover_residual", "speedup", "mixing_penalty"]
swept = pd.concat({"digits": digit_batches, "plates": plate_batches}, names=["map"])
new = swept[swept["method"] == "anderson"]
paying = new.groupby(["map", "problem.batch_size"])
print(paying["crossover"].value_counts().unstack(fill_value=0).to_string())

counts = swept.groupby(["map", "method", "problem.batch_size"])["num_evals"].median()
with Store(store) as opened:
    runs = opened.results(digit_batches.query("`problem.batch_size` == 64")["row"].tolist())
needed = {row: run.sample_evals.float().mean().item() / run.num_evals for row, run in runs.items()}

for method in ("picard", "anderson"):
    of_digits = counts["digits", method]
    assert of_digits[1] < of_digits[16] < of_digits[64]
    assert counts["plates", method].max() < 2 * counts["plates", method].min()
assert (counts.xs("anderson", level="method") < counts.xs("picard", level="method")).all()
assert all(0.15 < share < 0.35 for share in needed.values())  # the others are done
ms = {name: table.set_index("problem.batch_size")["median"] for name, table in (
    ("digits", per_sample(new.loc["digits"])), ("plates", per_sample(new.loc["plates"])),
    ("compact", per_sample(compact)))}  # fmt: skip
assert ms["digits"][16] < ms["digits"][1] and ms["plates"][64] < ms["plates"][1]
assert ms["compact"][64] < ms["digits"][64]
penalty = paying["mixing_penalty"].median()["digits"]
assert penalty[1] > penalty[64]
assert new["crossover"].isin(["at", "from the start"]).mean() > 0.75
residual = new.groupby("map")["crossover_residual"].median()
assert 1e-4 < residual["digits"] < min(0.1, residual["plates"])
paying[columns].median().map("{:.2g}".format)

# %% [markdown]
# ## 7. Samples instead of a grid
#
# Our grid has 25 points, and looks at mixing only at five values. `Between(low, high)` samples the
# whole interval instead; two intervals are sampled together, by **Sobol points** (Sobol 1967),
# which fill the plane more evenly than random ones. `log=True` gives each doubling of the window
# the same share, as our grid did. The numbers say the order; a sample is filled if it would be in
# the grid's region.

# %%
intervals = {"method.window": Between(1, 16, log=True), "method.mixing": Between(0.4, 1.9)}


def sampled(count, base, grid, same, grid_table, more_axes=(), **more):
    """The table of so many samples, by the measure of the grid's best."""
    drawn = Sweep(base, dict(more_axes) | intervals, samples=count, **more)
    frame = drawn.run("serial", store, progress=False)
    best = grid.groupby(same)["num_evals"].min()
    frame = frame.assign(ratio=frame["num_evals"] / frame[same].map(best))
    points = frame.sort_values("number")[list(axes)].drop_duplicates().itertuples(index=False)
    order = {point: at for at, point in enumerate(points)}
    table = with_region(by_point(frame, list(axes), "ratio"), best=grid_table.iloc[0])
    return table.assign(
        sample=[order[point] for point in table[list(axes)].itertuples(index=False)]
    )


from_digits = sampled(8, digits, on_digits, "seed", ratios, seeds=range(4))
from_plates = sampled(16, plate, on_plates, "problem.size", plate_ratios, sizes)
drawing_sweeps.samples({"digits": (ratios, from_digits), "plates": (plate_ratios, from_plates)})

# %%
hits = {}
for name, grid, drawn in (("digits", ratios, from_digits), ("plates", plate_ratios, from_plates)):
    hits[name] = sorted(drawn.loc[drawn["region"], "sample"] + 1)
    print(f"{name}: {grid['region'].sum()} of 25 grid points; of {len(drawn)} samples {hits[name]}")
    print(f"   best median ratio: grid {grid['median'].min():.3g}, {drawn['median'].min():.3g}")

# %% [markdown]
# On digits the region fills a quarter of the grid, and about as many of 8 samples fall into it; the
# first of all did. Who draws them one by one may stop early, and the best of the 8 is nearly as
# good as the best of the grid's 25. On plates the region is a thin slice at the window's upper end,
# and of 16 samples one finds it. How many samples are needed depends on that share alone, not on
# how many knobs there are (exercise 11): with two knobs a grid does well, with six it is hopeless.

# %%
assert 4 <= ratios["region"].sum() <= 8 and 1 <= len(hits["digits"]) <= 4
assert plate_ratios["region"].sum() <= 5 and 1 <= len(hits["plates"]) <= 2
assert from_digits["median"].min() < 1.1 and hits["digits"][0] == 1

# %% [markdown]
# ## 8. Where a number came from
#
# In a year somebody will ask where the best line of section 2 came from. Behind every row is its
# **run card**: all knobs, the seed, the versions, a hash of the code, the processor, the checksums
# of weights and images. It can be run again, and two cards can be compared.

# %%
best = on_digits.loc[on_digits["num_evals"].idxmin()]
worst = on_digits.loc[on_digits["num_evals"].idxmax()]
with Store(store) as opened:
    card, other = (opened.card(int(row["row"])) for row in (best, worst))

print(f"window {card.spec['method']['window']}, mixing {card.spec['method']['mixing']}")
print(f"seed {card.seed}, {card.date}, {card.device}, code {card.code_hash}")
print("\nrun again:", rerun(card).sentence)
print("\nbest and worst:", diff_cards(card, other).sentence)

assert rerun(card).agrees and card.spec_id == best["spec_id"]
assert {"seed", "knobs"} >= {each.part for each in diff_cards(card, other).of("knobs", "seed")}
assert not diff_cards(card, other).of("code", "versions", "device", "threads")

# %% [markdown]
# ## 9. From a laptop to a cluster
#
# So far every trial ran in this very process. The first argument of `run` says where else:
#
# ```python
# sweep.run("processes")              # a process for each core, one thread each: the default
# sweep.run("tcp://login-node:8786")  # the workers of a Dask scheduler, by its address
# sweep.run(Slurm(jobs=8))            # jobs that SLURM is asked for, and that end with the sweep
# ```
#
# The same trials, the same counts, the same store: a grid that was begun on a laptop goes on where
# there are more cores. Workers hand back rows; only the process that called `run` writes. (Rows of
# another processor are other rows: their seconds would not compare.) What SLURM is handed can be
# read beforehand:

# %%
cluster = Slurm(jobs=8, memory="2GB", walltime="00:30:00", queue="short", python="python")
script = cluster.job_script()
print(script)

assert "--mem=2G" in script and "-t 00:30:00" in script and "-p short" in script
assert "OMP_NUM_THREADS=1" in script and "--nthreads 1" in script

# %% [markdown]
# On a cluster a sweep is rather a file, run by `python -m andersonn_core sweep sweep.yaml`. It is
# the same sweep, with the same fingerprint, so what is in the store counts for both.

# %%
file = Path(folder.name) / "sweep.yaml"
file.write_text(
    """
base:
  problem: {name: digits_deq, batch_size: 4}
  rtol: 1.0e-4
  max_iter: 400
axes:
  method.window: [2, 8]
  method.mixing: [0.7, 1.0, 1.4]
seeds: "0:2"
"""
)
from_file = SweepFile.read(file).sweep()
told = []
from_file.run("serial", store, progress=told.append)
print(told[0].sentence)

assert from_file.sweep_id == small.sweep_id and told[0].found == told[0].total == 12

# %% [markdown]
# ## 10. Exercise: on the same digits
#
# Is a window of 8 better than one of 2? You get a sweep's table with the columns `method.window`,
# `seed`, `status` and `num_evals`, in no order. Return three numbers: the median, the 10 % and the
# 90 % quantile of how many times as long the window `other` takes as the window `one`, on the same
# seeds. (`pivot` puts a table in order. And what does a trial that diverges look like?)


# %%
def my_compare(frame, one, other):
    medians = frame.groupby("method.window")["num_evals"].median()
    return medians[other] / medians[one], 1.0, 1.0


# %%
from solutions.sweeps_04 import check_compare

print(check_compare(my_compare))

# %% jupyter={"source_hidden": true} tags=["hide-input"]
from solutions.sweeps_04 import solution_compare

assert check_compare(solution_compare).passed
drawing.reveal("Show a solution", solution_compare)

# %% [markdown]
# ## 11. Exercise: how many samples?
#
# A region fills the part $p$ of all that is sampled, and samples are drawn at random. How many must
# there be, at least, for one of them to hit the region with a probability of `sure`? Return the
# smallest whole number. (Each sample misses with probability $1 - p$. Note that the number of knobs
# does not appear: that is what samples have over grids.)


# %%
def my_count(part, sure):
    return round(1 / part)


# %%
from solutions.sweeps_04 import check_count

print(check_count(my_count))

# %% jupyter={"source_hidden": true} tags=["hide-input"]
from solutions.sweeps_04 import solution_count

assert check_count(solution_count).passed
drawing.reveal("Show a solution", solution_count)

# %% [markdown]
# ## 12. Exercise: a sweep of your own
#
# A plate of 24 x 24 points, `PLATE`, is to be solved in at most 48 evaluations with a window of at
# most 10. Find out how, with at most 40 trials: return the `Sweep`, the check runs it. (Window and
# mixing alone hardly get there. Section 4 of notebook 01 names a knob that this notebook has left
# alone.)

# %%
from solutions.sweeps_04 import PLATE, check_sweep


def my_sweep():
    return Sweep(PLATE, {"method.window": [5, 10], "method.mixing": [0.7, 1.0]})


print(check_sweep(my_sweep))

# %% jupyter={"source_hidden": true} tags=["hide-input"]
from solutions.sweeps_04 import solution_sweep

assert check_sweep(solution_sweep).passed
drawing.reveal("Show a solution", solution_sweep)

# %% [markdown]
# ## References
#
# * E. D. Dolan and J. J. More (2002), Benchmarking optimization software with performance profiles,
#   Math. Program. 91.
# * I. M. Sobol (1967), On the distribution of points in a cube and the approximate evaluation of
#   integrals, USSR Comput. Math. Math. Phys. 7.
