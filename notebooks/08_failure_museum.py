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
# # How does a good rule go wrong?
#
# This is a small museum of solvers that fail. Each room shows a rule that is short and natural,
# the kind that anybody would write on a first afternoon and that good libraries contain; a tiny map
# on which it goes wrong; and the rule that `andersonn_core` follows instead. The rules at fault are
# written anew here, in a few lines each, so that you can see and change them. At the exit,
# torchdeq walks through the same rooms, where it is installed.
#
# You need to know three words. A **fixed point** of a map $f$ is a $z$ with $z = f(z)$; the
# **residual** $f(z) - z$ says how far a point is from that; **Anderson acceleration** combines the
# last few points so that their combined residual becomes small (the first notebook builds it from
# one number up). A **batch** is a stack of independent problems, one in each row.
#
# Every number in the text is checked by an `assert` in a cell beside it.

# %%
import drawing
import pandas as pd
import panel as pn
import torch

from andersonn_core import PROBLEMS, Anderson, KnobError, Picard, Status, solve

torch.set_num_threads(1)
pn.extension(inline=True)  # figures carry their own JavaScript: nothing is loaded from the internet


def zeros(batch, n):
    return torch.zeros(batch, n, dtype=torch.float64)


# %% [markdown]
# ## 1. Can the unit decide whether a problem is solved?
#
# Twenty numbers creep towards 1 meter: at each step the quickest goes all the way, the slowest a
# thousandth of what is left. In kilometers the same numbers creep towards 0.001, in millimeters
# towards 1000. Nothing else changes.
#
# Here is Anderson as many textbooks have it: weights that add up to one make the combined residual
# $\lVert \sum_i w_i g_i \rVert$ small, and come from the matrix of inner products $G G^T$. So that
# it can always be inverted, a small number is added to its diagonal, a **ridge**: $10^{-4}$.


# %%
def textbook(f, z, ridge, window=5, evaluations=400):
    """Every point at which f was evaluated and its image, (K, B, n) each."""
    points, images = [], []
    for _ in range(evaluations):
        points.append(z)
        images.append(f(z))
        Z, F = (torch.stack(kept[-window - 1 :], dim=1) for kept in (points, images))  # (B, k, n)
        G = F - Z
        gram = G @ G.mT + ridge * torch.eye(G.shape[1], dtype=z.dtype)
        weights = torch.linalg.solve(gram, torch.ones_like(gram[..., :1]))
        weights = weights / weights.sum(dim=1, keepdim=True)
        z = (weights.mT @ F)[:, 0]
    return torch.stack(points), torch.stack(images), weights


def relative(points, images):  # (..., n) -> (...)
    return (images - points).norm(dim=-1) / images.norm(dim=-1)


def creep(unit):
    rate = torch.logspace(0, -3, 20, dtype=torch.float64)
    return lambda z: z + rate * (unit - z)


# %%
units = {"kilometers": 1e-3, "meters": 1.0, "millimeters": 1e3}
rule, ours, weights = {}, {}, {}
for name, unit in units.items():
    points, images, weights[name] = textbook(creep(unit), zeros(1, 20), ridge=1e-4)
    rule[name] = relative(points, images)[:, 0]
    ours[name] = solve(creep(unit), zeros(1, 20), Anderson(window=5), rtol=1e-6)
forward = solve(creep(1e-3), zeros(1, 20), Picard(), rtol=1e-6, max_iter=400)

drawing.residual_lines(
    {f"ridge 1e-4, {name}": ("restart", curve) for name, curve in rule.items()}
    | {
        "forward iteration": ("picard", forward.history.relative_residual[:, 0]),
        "ours, all three units": ("anderson", ours["meters"].history.relative_residual[:, 0]),
    },
    rtol=1e-6,
)

# %% [markdown]
# The three orange lines are one problem. Inner products of residuals shrink with the *square* of
# the residual: where that is below 0.01, a ridge of $10^{-4}$ is larger than all of them, and the
# weights become equal. In kilometers that is so from the first step on: the last six points are
# averaged, and after 400 evaluations the "accelerated" residual is 2.0e-3, where forward
# iteration, the plain $z \leftarrow f(z)$, has reached 4.7e-4.
#
# **Ours** scales the matrix to a unit diagonal before the ridge is added, so that the ridge is a
# fraction and has no unit. 109 evaluations solve it to $10^{-6}$, in all three.

# %%
last = {name: f"{curve[-1]:.1e}" for name, curve in rule.items()}
assert last == {"kilometers": "2.0e-03", "meters": "1.4e-03", "millimeters": "7.4e-06"}
assert f"{forward.relative_residual.item():.1e}" == "4.7e-04" and forward.num_evals == 400
assert torch.allclose(weights["kilometers"], torch.tensor(1 / 6, dtype=torch.float64), rtol=1e-3)
assert creep(1e-3)(zeros(1, 20)).norm() < 0.01  # the first residual already
assert all(run.converged.all() and run.num_evals == 109 for run in ours.values())

# %% [markdown]
# ## 2. Can it hurt to have found the answer?
#
# Who has been to room 1 wants no ridge at all. Take a batch of two: the first problem has the same
# image everywhere, $f(z) = 1$, so that its second point is exact; the second goes its way.

# %%
factors = torch.tensor([[0.0, 0.0], [0.9, 0.5]], dtype=torch.float64)


def easy_and_ordinary(z):
    return factors * z + 1


try:
    textbook(easy_and_ordinary, zeros(2, 2), ridge=0.0)
    message = ""
except torch.linalg.LinAlgError as error:
    message = str(error)
both = solve(easy_and_ordinary, zeros(2, 2), Anderson(regularization=0.0), rtol=1e-6)
print("the rule:", message)
print("ours:    ", both.z.round(decimals=6).tolist(), "after", both.sample_evals.tolist())

# %% [markdown]
# A residual of zero makes a row of zeros in $G G^T$. The matrix is singular, the solver raises, and
# the *other* problem, which was fine, dies with it.
#
# **Ours** freezes a sample when it is done (the first after 2 evaluations, the second after 4), and
# inside the least-squares problem a column that adds nothing is left out, counted and reported,
# in that sample only. Even if told to go on until the residual is exactly 0, it does.

# %%
exactly = solve(easy_and_ordinary, zeros(2, 2), Anderson(regularization=0.0), rtol=0.0)
assert "singular" in message and "Batch element 0" in message
assert both.converged.all() and both.sample_evals.tolist() == [2, 4]
assert exactly.converged.all() and exactly.diagnostics["drops"] > 0

# %% [markdown]
# ## 3. Does one sick sample spoil the batch?
#
# $f(z) = \sqrt{a - z}$ for four values of $a$ side by side. For $a = 0.2$ the second evaluation
# takes the root of a negative number: NaN, not a number. The rule below keeps the best point so far
# by arithmetic with a mask, `better * z + ~better * best`, and ends when the largest residual of
# the batch is small. Both look innocent.

# %%
a = torch.tensor([[0.2], [2.0], [3.0], [6.0]], dtype=torch.float64)


def roots(z):
    return (a - z).sqrt()


def together(f, z, tol, max_iter=50):
    """Forward iteration; the best points and how many evaluations they took."""
    best, smallest = z, torch.full_like(z[:, :1], 1e8)
    for evaluations in range(1, max_iter + 1):
        image = f(z)
        residual = (image - z).norm(dim=1, keepdim=True)
        better = residual < smallest
        best = better * z + ~better * best
        smallest = better * residual + ~better * smallest
        if residual.max() <= tol or evaluations == max_iter:
            return best, evaluations
        z = image


best, evaluations = together(roots, zeros(4, 1), tol=1e-6)
apart = solve(roots, zeros(4, 1), Picard(), rtol=0.0, atol=1e-6)
print("the rule:", best.flatten().tolist(), "after", evaluations)
print("ours:    ", apart.z.flatten().tolist(), "after", apart.sample_evals.tolist())
drawing.evaluations_spent(apart.sample_evals, evaluations, height=200)

# %% [markdown]
# `0 * NaN` is NaN: the mask does not keep it out, and the good start of the first problem is gone.
# And a maximum with a NaN in it is never small: the three healthy problems, done after 22, 16 and
# 12 evaluations, run on to the limit of 50.
#
# **Ours** stops the sick sample at evaluation 2 with the status `NONFINITE` and hands out its best
# point before, the start; nobody else notices.

# %%
assert best[0].isnan().all() and not best[1:].isnan().any()
assert evaluations == 50 and apart.num_evals == 22
assert apart.sample_evals.tolist() == [2, 22, 16, 12]
assert apart.status.tolist() == [Status.NONFINITE, *[Status.CONVERGED] * 3]
assert apart.z[0].item() == 0.0  # where it started

# %% [markdown]
# ## 4. Who waits for whom?
#
# Nobody is sick here: 64 handwritten digits, read by the trained network of the first notebook, by
# forward iteration. The rule is again to go on until the largest residual is small.

# %%
network = PROBLEMS["digits_deq"](batch_size=64).build()
spent = []  # samples in each evaluation


class Watched:
    """A map that notes how many samples it is asked about."""

    def __init__(self, f):
        self.f = f

    def __call__(self, z):
        spent.append(len(z))
        return self.f(z)

    def select(self, indices):
        return Watched(self.f.select(indices))


z, whole = network.z0, 0
while True:
    image, whole = network.f(z), whole + 1
    if relative(z.flatten(1), image.flatten(1)).max() <= 1e-4:
        break
    z = image

digits = solve(
    Watched(network.f), network.z0, Picard(), rtol=1e-4, max_iter=400, compact=True
)  # fmt: skip
drawing.evaluations_spent(digits.sample_evals, whole)

# %% [markdown]
# One digit takes 265 evaluations, the typical one 65. The whole batch together costs
# $64 \times 265 = 16\,960$ evaluations of a digit, of which 4605 were needed: the blue area.
#
# **Ours** judges each sample on its own and moves none that is done, so that an answer does not
# depend on who else is in the batch. With `compact=True` it also takes the finished out of the
# batch, whenever they are the majority: 5200 evaluations of a digit, the last 64 of which confirm
# all answers in the full batch.

# %%
assert whole == digits.sample_evals.max() == 265 and digits.sample_evals.median() == 65
assert 64 * whole == 16_960 and digits.sample_evals.sum() == 4605
assert sum(spent) == 5200 and spent[-1] == 64
assert digits.converged.all()

# %% [markdown]
# ## 5. When is infinity a success?
#
# $f(z) = 1.5\,z + 1$ in single precision. Its fixed point is $-2$, but forward iteration runs away
# from it: the relative residual $\lVert f(z) - z \rVert / \lVert f(z) \rVert$ settles at one third
# and stays there. Until evaluation 106.


# %%
def expand(z):
    return 1.5 * z + 1


def size(z):  # (B, n) -> (B,)
    return z.square().sum(dim=1).sqrt()


z, quotients = torch.zeros(1, 4), []
while not quotients or quotients[-1] > 1e-6:
    image = expand(z)
    quotients.append((size(image - z) / size(image)).item())
    z, before = image, z

runaway = solve(expand, torch.zeros(1, 4), Picard(), rtol=1e-6)
solved = solve(expand, torch.zeros(1, 4), Anderson(window=5), rtol=1e-6)
print(f"the rule: converged after {len(quotients)} evaluations at z = {before[0, 0]:.1e}")
for name, run in {"forward": runaway, "Anderson": solved}.items():
    status = Status(run.status.item()).name
    print(f"ours, {name}: {status} after {run.num_evals} at z = {run.z[0, 0]:.4g}")
drawing.residual_lines(
    {
        'the rule: "converged"': ("restart", torch.tensor(quotients)),
        "ours: DIVERGED": ("picard", runaway.history.relative_residual[:, 0]),
        "ours, Anderson": ("anderson", solved.history.relative_residual[:, 0]),
    },
    log=False,
)

# %% [markdown]
# A single-precision number ends at 3.4e38, and a norm adds up squares: where $f(z)$ comes near
# $10^{19}$, the norm below the line becomes infinite, a moment before the one above. A finite
# number divided by infinity is 0, and 0 is below every tolerance: "converged".
#
# **Ours** believes a residual only if the norm that it is compared with is finite, and calls the
# run `DIVERGED` long before, when the residual is a million times the first: after 36 evaluations.
# (Anderson needs 4 to find $-2$.)

# %%
assert len(quotients) == 106 and quotients[-1] == 0.0
assert 9e18 < image.max() < 1e19 and size(image).isinf() and size(image - before).isfinite()
assert all(abs(quotient - 1 / 3) < 1e-3 for quotient in quotients[20:-1])
assert f"{torch.finfo(torch.float32).max:.1e}" == "3.4e+38"
assert runaway.status.item() == Status.DIVERGED and runaway.num_evals == 36
growth = runaway.history.residual[:, 0] / runaway.history.residual[0, 0]
assert growth[-2] < 1e6 < growth[-1]
assert solved.converged.all() and solved.num_evals == 4 and torch.allclose(solved.z, -2 + 0 * z)

# %% [markdown]
# ## 6. Which point do you get when time is up?
#
# $f(z) = 1 + 2 \sin 2z$, two numbers, and Anderson with a window of 1 that is out of luck: it comes
# close and loses the track again. After 21 evaluations time is up. Two natural rules: return the
# **last** point, or return the **image** of the best point, since $f$ should improve it.


# %%
def waves(z):
    return 1 + 2 * torch.sin(2 * z)


start = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
points, images, _ = textbook(waves, start, ridge=0.0, window=1, evaluations=21)
track = relative(points, images)[:, 0]  # (21,)
nearest = int(track.argmin())
after = images[nearest]  # f(best)
image_residual = relative(after, waves(after)).item()

stopped = solve(waves, start, Anderson(window=1), max_iter=21)
drawing.residual_lines(
    {"": ("anderson", track)},
    marks={
        "the last": ("restart", 21, track[-1].item()),
        "f(best)": ("restart", nearest + 1, image_residual),
        "the best": ("anderson", nearest + 1, track[nearest].item()),
    },
)

# %% [markdown]
# The best of the 21 points has a residual of 0.04. The last one has 2.30, and the image of the best
# 0.18: $f$ improves a point only where it brings points together, and here it pulls them apart.
#
# **Ours** returns, for each sample, the best point *at which $f$ was evaluated*, and the residual
# that it reports is that point's own: evaluate $f$ there and you will find the same number. (With
# its standard window of 5 Anderson finds the fixed point, in 10 evaluations.)

# %%
assert (f"{track[nearest]:.2f}", f"{track[-1]:.2f}", f"{image_residual:.2f}") == (
    "0.04", "2.30", "0.18",
)  # fmt: skip
assert stopped.status.item() == Status.MAX_ITER and stopped.num_evals == 21
assert torch.allclose(stopped.z, points[nearest], rtol=1e-9)
recomputed = relative(stopped.z, waves(stopped.z))
assert torch.allclose(recomputed, stopped.relative_residual, rtol=1e-12)
assert solve(waves, start, Anderson(window=5)).check().num_evals == 10

# %% [markdown]
# ## 7. What if the map writes on its own paper?
#
# To save memory, somebody writes $f(z) = z / 2 + 1$ (fixed point 2) so that it overwrites its
# argument. Somebody else uses one buffer for all outputs. The rule compares $f(z)$ with $z$.


# %%
def overwriting(z):
    return z.mul_(0.5).add_(1)


buffer = torch.empty(1, 3)


def one_buffer(z):
    return torch.mul(z, 0.5, out=buffer).add_(1)


def trusting(f, z, rtol=1e-6, max_iter=50):
    for evaluations in range(1, max_iter + 1):
        image = f(z)
        if (image - z).norm() <= rtol * image.norm():
            return z[0, 0].item(), evaluations
        z = image


claims = {f.__name__: trusting(f, torch.zeros(1, 3)) for f in (overwriting, one_buffer)}
for name, (z, evaluation) in claims.items():
    print(f"the rule, {name}: converged after {evaluation} at z = {z:.2f}")
buffered = solve(one_buffer, torch.zeros(1, 3), rtol=1e-6)
print(f"ours, one_buffer: z = {buffered.z[0, 0]:.4f} after {buffered.num_evals}")
try:
    refusal = str(solve(overwriting, torch.zeros(1, 3)).status)
except ValueError as error:
    refusal = str(error)
print("ours, overwriting:", refusal)

# %% [markdown]
# Two names, one memory: the difference is 0, whatever was computed. The rule claims 1.00 after 1
# evaluation and 1.50 after 2.
#
# **Ours** never keeps the map's memory, so that one buffer is fine: 2, after 3 evaluations. Of a
# map that overwrites its argument the residual cannot be known, and so it says that, and what to
# do, before anything is claimed.

# %%
assert claims == {"overwriting": (1.0, 1), "one_buffer": (1.5, 2)}
assert buffered.converged.all() and buffered.num_evals == 3
assert torch.allclose(buffered.z, torch.tensor(2.0))
assert "in place" in refusal and "clone" in refusal

# %% [markdown]
# ## 8. Who reads the small print?
#
# The rule fills a history of two before its loop begins, and takes options as they come.


# %%
def lenient(f, z, **options):
    """Forward iteration; the best point and its residual."""
    best, smallest = z, 1e8
    z = f(f(z))
    for _ in range(2, options.get("max_iter", 50)):
        image = f(z)
        if (residual := (image - z).norm().item()) < smallest:
            best, smallest = z, residual
        z = image
    return best.item(), smallest


def ours_says(**knobs):
    try:
        run = solve(torch.cos, zeros(1, 1), Picard(), rtol=1e-6, **knobs)
    except KnobError as error:
        return str(error)
    status = Status(run.status.item()).name
    return f"{status}, z = {run.z.item():.4f}, relative residual {run.relative_residual.item():.1e}"


asked = [{"max_iter": 2}, {"max_iter": 60}, {"maxiter": 60}, {"max_iter": 0}]
small_print = pd.DataFrame(
    {
        "the rule": "z = {:.4f}, residual {:.1e}".format(*lenient(torch.cos, zeros(1, 1), **knobs)),
        "ours": ours_says(**knobs),
    }
    for knobs in asked
)
small_print.index = [str(knobs) for knobs in asked]
drawing.table(small_print)

# %% [markdown]
# With two evaluations the rule returns the start and a residual of 1e8 that nobody computed. With
# `maxiter`, one underscore short, it runs for 50 instead of 60, and says nothing.
#
# **Ours** reports what it has computed, were it one evaluation; and refuses what it does not know,
# or what is out of range, before the first evaluation, with the name that was probably meant.

# %%
assert small_print.loc["{'max_iter': 2}", "the rule"] == "z = 0.0000, residual 1.0e+08"
assert lenient(torch.cos, zeros(1, 1), maxiter=60) == lenient(torch.cos, zeros(1, 1), max_iter=50)
two = solve(torch.cos, zeros(1, 1), Picard(), max_iter=2)
assert two.num_evals == 2 and two.z.item() == 1.0  # cos 0, better than the start
assert "max_iter" in ours_says(maxiter=60) and "not allowed" in ours_says(max_iter=0)

# %% [markdown]
# ## The exit: a peer in the same rooms
#
# torchdeq made equilibrium networks easy to use for many, and it is the library that our benchmarks
# measure beside ours. If it is installed here (`pip install torchdeq`), this table shows what it
# makes of the eight maps: the relative residual that it reports, how many evaluations of a sample
# it spent, and the residual that the returned point really has (residuals are the largest of their
# batch). A newer version may have mended what an older one shows.

# %%
try:
    from torchdeq.solver import get_solver
except ImportError:
    get_solver = None


def torchdeq_solves(f, z0, solver="anderson", tol=1e-6, **options):
    z, _, info = get_solver(solver)(f, z0, stop_mode="rel", tol=tol, **options)
    return z, f"reports {info['rel_lowest'].max():.1e}"


def we_solve(f, z0, method=None, **knobs):
    run = solve(f, z0, method or Anderson(), **knobs)
    ends = pd.Series([Status(status).name for status in run.status.tolist()]).value_counts()
    words = ", ".join(f"{count} {name}" for name, count in ends.items())
    return run.z, f"{words}; reports {run.relative_residual.max():.1e}"


def visit(solver, f, z0, knobs):
    spent.clear()
    try:
        z, words = solver(Watched(f), z0.clone(), **knobs)
    except (ValueError, RuntimeError, IndexError) as error:
        return f"raises {type(error).__name__}"
    words = f"{words}, spent {sum(spent)}"
    true = relative(z.double().flatten(1), f(z.clone()).double().flatten(1)).max()
    return f"{words}, has {true:.1e}"


# %%
plainly = dict(solver="fixed_point_iter", max_iter=400)
rooms = {
    "1. kilometers": (creep(1e-3), zeros(1, 20), dict(max_iter=400), dict(max_iter=400)),
    "2. found": (easy_and_ordinary, zeros(2, 2), dict(lam=0.0), dict()),
    "3. one is sick": (roots, zeros(4, 1), dict(solver="fixed_point_iter"), dict(method=Picard())),
    "4. 64 digits": (
        network.f, network.z0, dict(tol=1e-4, **plainly),
        dict(method=Picard(), rtol=1e-4, max_iter=400, compact=True),
    ),
    "5. infinity": (expand, torch.zeros(1, 4), plainly, dict(method=Picard(), max_iter=400)),
    "6. time is up": (
        waves, start, dict(m=2, lam=0.0, max_iter=21), dict(method=Anderson(window=1), max_iter=21)
    ),
    "7. overwriting": (overwriting, torch.zeros(1, 3), dict(), dict()),
    "8. misspelt": (torch.cos, zeros(1, 1), dict(max_iter=2, maxiter=60), dict(maxiter=60)),
}  # fmt: skip
columns = {"ours": [visit(we_solve, f, z0, knobs) for f, z0, _, knobs in rooms.values()]}
if get_solver is None:
    print("torchdeq is not installed here: its column is missing.")
else:
    columns["torchdeq"] = [
        visit(torchdeq_solves, f, z0, options) for f, z0, options, _ in rooms.values()
    ]
drawing.table(pd.DataFrame(columns, index=list(rooms)))

# %% [markdown]
# ## What to take home
#
# | if a rule | it should |
# | --- | --- |
# | adds a number to a matrix | have scaled the matrix first |
# | solves many small systems at once | survive one that is singular |
# | keeps the better of two | select, not multiply by a mask |
# | stops a batch | stop each sample |
# | divides by a norm | ask first whether it is finite |
# | returns a point | return one that it has measured, and the best of those |
# | compares two tensors | own the memory of one of them |
# | takes options | know them all |
#
# Each row is also a test of this project: `tests/test_peers_defects.py` asks ours, and
# `tests/test_peers_exhibits.py` asks torchdeq and SciPy, where they are installed.
