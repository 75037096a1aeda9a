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
# # When does mixing pay for itself?
#
# Anderson acceleration needs fewer evaluations of the map than forward iteration, and pays for
# them with mixing: inner products and linear algebra between two evaluations. This notebook asks
# *how many* fewer, which of the past is worth its memory, and when the whole is a bargain.
#
# One tool answers most of it: the **residual polynomial**. It turns each method into a curve, and
# each question into one about the curve's roots. Who has read notebook 01 and knows what an
# eigenvalue is can read on. All cells together take less than half a minute, and every number in
# the text is checked by an `assert` in a cell beside it.

# %%
import math

import drawing_roots
import pandas as pd
import panel as pn
import torch

from andersonn_core import (
    IDR,
    PROBLEMS,
    Anderson,
    Auto,
    Event,
    Picard,
    ShortRecurrence,
    SolveSpec,
    crossover,
    solve,
)
from andersonn_core.cost_model import speedup
from andersonn_core.methods.idr import Shadow
from andersonn_core.polynomial import residual_polynomial

torch.set_num_threads(1)  # seconds below are the CPU time of this one thread
torch.set_default_dtype(torch.float64)
pn.extension(inline=True)  # figures carry their own JavaScript: nothing is loaded from the internet

# %% [markdown]
# ## 1. Each eigenvalue is an experiment of its own
#
# Let the map be linear, $f(z) = Jz + c$, with residual $g = f(z) - z$. Forward iteration
# multiplies the residual by $J$ at every step: $g_k = J^k g_0$. In the eigenvectors of $J$ this is
# many small experiments that do not see one another: the component of $g$ that belongs to the
# eigenvalue $\lambda$ is multiplied by $\lambda$, again and again.
#
# So let us write the map in its eigenvectors from the start: 85 numbers, each with a $\lambda$ of
# its own. Most of them are fast, between -0.8 and 0.8. Four are **slow**: 0.95, 0.98, 0.99, 0.995.
# All components of $g_0$ are 1, and so the residual vector, seen over its eigenvalues, is a
# picture of the function $\lambda^k$.
#
# Any method whose next point is a weighted mean of the past, Anderson among them, does the
# same with another polynomial:
#
# $$g_k = p_k(J)\, g_0, \qquad p_k(1) = 1.$$
#
# (Why $p_k(1) = 1$? Where $\lambda = 1$ the residual is $c$, wherever $z$ is: no step can change
# it.) `residual_polynomial` evaluates $p_k$ also between the eigenvalues.

# %%
slow = torch.tensor([0.95, 0.98, 0.99, 0.995])
eigenvalues = torch.cat([torch.linspace(-0.8, 0.8, 81), slow])
z0 = torch.zeros(1, 85)


def f(z):
    return eigenvalues * z + 1


def polynomials(method, points, evaluations):
    """p_0, p_1, ... at real points, a row each."""
    return residual_polynomial(f, z0, method, points + 0j, evaluations).real


def residuals(f, z0, method, **knobs):
    """The points and the residuals of a solve, a row for each evaluation, and its result."""
    points = []
    result = solve(f, z0, method, on_step=lambda step: points.append(step.z().clone()), **knobs)
    z = torch.cat([point.reshape(1, -1) for point in points])
    g = torch.cat([(f(point) - point).reshape(1, -1) for point in points])
    return z, g, result


line = torch.linspace(-0.9, 1.05, 781)
forward = polynomials(Picard(), line, 81)
drawing_roots.powers(line, eigenvalues, {k: forward[k] for k in (1, 5, 20, 80)})

# %%
_, g, _ = residuals(f, z0, Picard(), max_iter=81)

assert len(eigenvalues) == 85 and torch.all(g[0] == 1)
assert torch.allclose(forward[20], line**20)
assert torch.allclose(g[20], polynomials(Picard(), eigenvalues, 21)[20])
assert f"{g[80].abs()[:81].max():.0e}" == "2e-08" and f"{g[80, -1]:.2f}" == "0.67"

# %% [markdown]
# After 80 steps the fast components are down to $2 \cdot 10^{-8}$. The slowest one still
# stands at 0.67. Forward iteration has no choice: its polynomial has all its roots at 0, wherever
# the eigenvalues are.
#
# ## 2. The best polynomial
#
# Anderson chooses. With full memory its weights make the residual as small as the past allows,
# which means: it finds, among *all* polynomials of degree $k$ with $p(1) = 1$, the one that makes
# $\lVert p(J) g_0 \rVert$ smallest, and then takes one plain step. The former is what GMRES does,
# the standard method for linear systems $(I - J) z = c$. This is the theorem of Walker and Ni
# (2011): as long as GMRES makes progress,
#
# $$g_{k+1}^{\text{Anderson}} = J\, g_k^{\text{GMRES}}.$$
#
# Here is GMRES in a dozen lines, without a line of Anderson in it. **Move the slider**: the roots
# walk to where the eigenvalues are, and the last to arrive are those next to 1, where $p(1) = 1$
# holds the polynomial up.


# %%
def gmres(matrix, b, steps):
    """The residuals of the best solutions of A z = b from the spaces b, A b, A^2 b, ..."""
    basis, found = [b / b.norm()], [b]
    for _ in range(steps):
        images = torch.stack([matrix(q) for q in basis], dim=1)
        weights = torch.linalg.lstsq(images, b[:, None]).solution
        found.append(b - (images @ weights)[:, 0])
        new = images[:, -1]
        for q in basis * 2:  # twice: rounding errors of the first time
            new = new - (q @ new) * q
        basis.append(new / new.norm())
    return torch.stack(found)


everything = Anderson(window=100, restart="never")
K = 41
best = polynomials(everything, line, K)
_, g, _ = residuals(f, z0, everything, rtol=0.0, max_iter=K)
optimal = gmres(lambda v: v - eigenvalues * v, g[0], K - 2)

scale = g[0].norm()
forward_norms = torch.stack([(eigenvalues**k).norm() / scale for k in range(K)])
drawing_roots.best_polynomial(
    line, eigenvalues, forward[:K], best, (forward_norms, g.norm(dim=1) / scale),
    optimal.norm(dim=1) / scale, k=20,
)  # fmt: skip

# %%
for k in range(K - 1):
    assert (g[k + 1] - eigenvalues * optimal[k]).norm() < 1e-6 * g[k + 1].norm()

gap = (line > 0.8) & (line < 0.95)
assert best[32][gap].abs().max() > 1 and not ((eigenvalues > 0.81) & (eigenvalues < 0.94)).any()
assert f"{forward_norms[40]:.2f}" == "0.13" and g[40].norm() / scale < 1e-5

# %% [markdown]
# The residual after 40 steps: 0.13 of the first with forward iteration, less than 0.00001 with
# Anderson; GMRES (circles) is one step ahead of it all the way. At $k = 32$ the polynomial rises
# above 1 between 0.8 and 0.95: no eigenvalue is there, so nothing is lost.
#
# ## 3. How many evaluations? The square root
#
# To know the best polynomial one must know every eigenvalue. A bound needs only the interval
# $[a, b]$ that holds them, $b < 1$. On an interval the best polynomials have been known since
# Chebyshev, and they give
#
# $$\lVert g_k \rVert \le 2 \left(\frac{\sqrt\kappa - 1}{\sqrt\kappa + 1}\right)^{k-1}
#   \lVert g_0 \rVert, \qquad \kappa = \frac{1 - a}{1 - b},$$
#
# for a symmetric $J$ ($k - 1$: the last step is the plain one). For large $\kappa$ and a tolerance
# tol, that makes
#
# $$N_{\text{forward}} \approx \frac{\ln(1/\text{tol})}{1 - \rho}, \qquad
#   N_{\text{accelerated}} \lesssim \frac{\sqrt\kappa}{2} \ln\frac{2}{\text{tol}}.$$
#
# With $[a, b] = [-\rho, \rho]$, $1 / (1 - \rho)$ is about $\kappa / 2$: **acceleration takes the
# square root of the condition number.** The finer the grid of Poisson's equation (4 to 32 points
# a side), the larger $\kappa$, and the more there is to gain: 8 times fewer evaluations on the
# coarsest, 43 times fewer on the finest. The bound is kept with room to spare: it knows only
# the interval's ends; Anderson sees each eigenvalue, and how much of $g_0$ belongs to it.

# %%
tol, kappas, found = 1e-8, [], {"forward": [], "Anderson": []}
for size in (4, 8, 16, 32):
    problem = PROBLEMS["poisson"](size=size, dtype="float64").build()
    rho = problem.contraction
    first = (problem.f(problem.z0) - problem.z0).norm().item()
    knobs = {"rtol": 0.0, "atol": tol * first, "max_iter": 10_000}
    n_forward = solve(problem.f, problem.z0, Picard(), **knobs).check().num_evals
    n_anderson = solve(problem.f, problem.z0, everything, **knobs).check().num_evals

    kappa = (1 + rho) / (1 - rho)
    rate = (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    assert 0.9 < n_forward / (math.log(1 / tol) / (1 - rho)) < 1
    assert n_anderson <= 2 + math.log(2 / tol) / -math.log(rate)
    kappas.append(kappa)
    found["forward"].append(n_forward)
    found["Anderson"].append(n_anderson)

drawing_roots.counts_by_condition(
    kappas, found,
    {
        "forward": ("κ / 2 times ln(1 / tol)", lambda kappa: math.log(1 / tol) * (kappa + 1) / 2),
        "Anderson": ("√κ / 2 times ln(2 / tol)", lambda kappa: math.log(2 / tol) * kappa**0.5 / 2),
    },
)  # fmt: skip

# %%
fewer = [one / other for one, other in zip(found["forward"], found["Anderson"], strict=True)]
print("times fewer evaluations:", [round(times, 1) for times in fewer])
print("the square root of kappa:", [round(math.sqrt(kappa), 1) for kappa in kappas])

assert round(fewer[0]) == 8 and round(fewer[-1]) == 43 and fewer == sorted(fewer)

# %% [markdown]
# ## 4. Ten vectors: what a window forgets
#
# Full memory grows with every step. In practice there is room for ten differences or so, and the
# question is what to do when the window is full. Back to our 85 numbers; instead of the curve, we
# now draw its **roots**, step by step (upwards). The axis is stretched towards 1, thin lines are
# eigenvalues, dotted lines are restarts.
#
# * **Sliding** (`restart="never"`) drops the oldest difference at every step, and with it, little
#   by little, what it had found out about the slow eigenvalues. The outermost root never comes to
#   rest: it drifts past 0.995 and goes on, to 0.996 after 58 steps.
# * **Full restart** (`restart="full"`) keeps the newest difference only. Roots that have been
#   placed stay in the polynomial, but nothing is left that could move them: the outermost one
#   freezes at 0.9946, a little beside its eigenvalue. What comes after a restart begins
#   without roots, and must send new ones the whole way, from the left, to the same four
#   eigenvalues.
#
# In one sentence: **a restart erases the roots from the memory.** After 40 steps the four slow
# components are still at more than 0.01 with both, while full memory is below 0.0000001 there.

# %%
near_one = 1 - torch.logspace(math.log10(0.3), math.log10(0.0012), 6000)
histories = {
    "sliding": Anderson(window=10, restart="never"),
    "full restart": Anderson(window=10, restart="full"),
    "deflated restart": Anderson(window=10, restart="deflated"),
    "all differences": everything,
}


def roots(values, points):
    """Where p_k changes its sign: (k, root), two columns."""
    k, place = (values[:, 1:] * values[:, :-1] < 0).nonzero().T
    return k, points[place]


paths, restarts, left = {}, {}, {}
for name, method in histories.items():
    values = polynomials(method, torch.cat([near_one, slow]), 60)
    paths[name] = roots(values[:, :-4], near_one)
    left[name] = values[:, -4:].abs().amax(1)  # of the slow components
    result = solve(f, z0, method, rtol=0.0, max_iter=46)
    restarts[name] = ((result.history.event[:, 0] & Event.RESTART) != 0).nonzero()[:, 0].tolist()

panels = {name: paths[name] for name in ("sliding", "full restart")}
drawing_roots.root_paths(panels, eigenvalues, restarts)


# %%
def outermost(name, k):
    ks, where = paths[name]
    return where[ks == k].max().item()


assert outermost("sliding", 36) < 0.995 < outermost("sliding", 38)
assert f"{outermost('sliding', 58):.3f}" == "0.996"
assert all(abs(outermost("full restart", k) - 0.9946) < 1e-4 for k in range(40, 55))
assert left["sliding"][40] > 0.01 and left["full restart"][40] > 0.01
assert left["all differences"][40] < 1e-7

# %% [markdown]
# ## 5. Keep the slow directions
#
# A difference of points and the difference of residuals that belongs to it know one another. On a
# linear map,
#
# $$\Delta G = -(I - J)\, \Delta Z,$$
#
# and if this holds for every stored pair, it holds for **every combination** of them as well. A
# full window may therefore be exchanged for a few combinations, and nothing that is kept is wrong.
# Which ones? Take an eigenvector $v$ with eigenvalue $\lambda$: the pair is $v$ and
# $-(1-\lambda) v$. It gives least squares the means to remove all of $v$ from the residual, at
# every step from now on: **as long as that pair is kept, $p_k$ has a root at $\lambda$.** The roots
# that are expensive to find are those next to 1, and there $1 - \lambda$ is small. So keep the
# combinations $y$ for which
#
# $$\frac{\lVert \Delta G\, y \rVert}{\lVert \Delta Z\, y \rVert}
#   = \frac{\lVert (I - J) v \rVert}{\lVert v \rVert}, \qquad v = \Delta Z\, y,$$
#
# is smallest. Numerical analysts call this *deflated restarting* (for linear systems: Morgan 2002).
# `Anderson(window=10, restart="deflated")` keeps the five slowest combinations of ten. (In the code
# a difference is a row, in the formulas a column.)

# %%
z, g, _ = residuals(f, z0, histories["sliding"], rtol=0.0, max_iter=11)
dZ, dG = z.diff(dim=0), g.diff(dim=0)
assert len(dZ) == 10 and torch.allclose(dG, -(1 - eigenvalues) * dZ)

# With a pair for each slow eigenvector, least squares leaves nothing of them.
pairs = torch.diag(eigenvalues - 1)[-4:]
columns = torch.cat([dG[-3:], pairs]).T
remainder = g[-1] - columns @ torch.linalg.lstsq(columns, g[-1][:, None]).solution[:, 0]
assert remainder[-4:].abs().max() < 1e-12 < g[-1][-4:].abs().min()

# The slowest combination of the first ten differences
q, r = torch.linalg.qr(dZ.T)
_, ratios, directions = torch.linalg.svd(dG.T @ torch.linalg.inv(r), full_matrices=False)
v = q @ directions[-1]
print(f"smallest ratio {ratios[-1]:.3f}; part of v that is slow: {v[-4:].square().sum():.2%}")
assert f"{ratios[-1]:.2f}" == "0.02" and v[-4:].square().sum() > 0.999

# %% [markdown]
# After one window the slowest combination has the ratio 0.02, and more than 99.9 % of it is a
# mixture of the four slow eigenvectors. That is one direction for four: the next windows take the
# mixture apart. From step 36 on there is a root on each of the four eigenvalues, to within 0.0001,
# and it stays there.
#
# From then on the method does not feel the slow eigenvalues any more. It converges as if the
# spectrum ended at 0.8: $\kappa$ falls from 360 to 9, and Chebyshev's factor from 0.90 to 0.50 per
# step. Measured: 0.49. Ten differences do nearly the work of all (the dashed line).

# %%
norms = {}
for name, method in histories.items():
    _, g, _ = residuals(f, z0, method, rtol=0.0, max_iter=52)
    norms[name] = g.norm(dim=1) / g[0].norm()

drawing_roots.root_paths(
    {"deflated restart": paths["deflated restart"]}, eigenvalues, restarts,
    beside=drawing_roots.residual_lengths(norms),
)  # fmt: skip


# %%
def chebyshev(kappa):
    return (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)


for k in range(36, 52):
    ks, where = paths["deflated restart"]
    distance = (where[ks == k][:, None] - slow).abs().amin(0)
    assert distance.max() < 1e-4

rate = (norms["deflated restart"][50] / norms["deflated restart"][40]) ** 0.1
assert round(1.8 / (1 - 0.995)) == 360 and round(1.8 / (1 - 0.8)) == 9
assert f"{chebyshev(360):.2f} {chebyshev(9):.2f}" == "0.90 0.50" and abs(rate - 0.49) < 0.02
assert norms["deflated restart"][45] < 10 * norms["all differences"][45]
assert norms["full restart"][45] > 1e3 * norms["deflated restart"][45]

# %% [markdown]
# ## 6. A symmetric map: two pairs do the work of all
#
# Sometimes nothing needs to be kept. Make each new difference $\Delta g_k$ orthogonal to the older
# ones, $q_0, q_1, \dots$, as Gram and Schmidt do, and look at the products
# $\langle q_j, \Delta g_k \rangle$. If $J$ is symmetric, all but those with the newest two vanish
# (left: dark is zero). If it is not, none does (right).
#
# The reason: let $\bar g_k$ be what least squares leaves of $g_k$; it is orthogonal to all
# differences so far. Each residual is $J$ times the last remainder, so
# $\Delta g_k = J (\bar g_k - \bar g_{k-1})$. A symmetric $J$ may change sides in a product,
# $\langle q_j, J \bar g \rangle = \langle J q_j, \bar g \rangle$, and $J q_j$ is made of $q_0$ to
# $q_{j+1}$. To these $\bar g$ is orthogonal, unless they are the newest. Lanczos found it for
# eigenvalues; for Anderson it is due to Wei, Bao and Liu (2022) and Tang, Xu, He, Saad and Xi
# (2024).
#
# `ShortRecurrence()` keeps two pairs. Its iterates are those of the full memory, and it converges
# after the same 51 evaluations. On the right-hand map it has lost what it dropped: it takes more
# than four times as many evaluations as the full memory.

# %%
disc = PROBLEMS["affine"](size=90, spectrum="disc", spectral_radius=0.98, dtype="float64").build()
table = {}
for title, (map_, start) in {
    "symmetric": (f, z0),
    "not symmetric": (disc.f, disc.z0),
}.items():
    _, g, _ = residuals(map_, start, everything, rtol=0.0, max_iter=22)
    dG = g.diff(dim=0)
    dG = dG / dG.norm(dim=1, keepdim=True)
    table[title] = torch.linalg.qr(dG.T).R

drawing_roots.products(table)

# %%
older = torch.ones(21, 21).triu(3).bool()
assert table["symmetric"][older].abs().max() < 1e-11
assert table["not symmetric"][older].abs().min() > 1e-6
assert table["not symmetric"][older].abs().median() > 1e-2

short, whole = (
    solve(f, z0, method, rtol=1e-10).check() for method in (ShortRecurrence(), everything)
)
lost, kept = (
    solve(disc.f, disc.z0, method, rtol=1e-10, max_iter=1000).check()
    for method in (ShortRecurrence(), everything)
)
assert short.num_evals == whole.num_evals == 51 and torch.allclose(short.z, whole.z)
assert lost.num_evals > 4 * kept.num_evals

# %% [markdown]
# ## 7. Not symmetric: a fixed space
#
# Sonneveld and van Gijzen (2008) gave up least squares altogether. Take $s$ fixed rows $P$, random
# signs will do, and choose the $s$ weights so that
#
# $$P\,(g - \Delta G\, \gamma) = 0, \qquad \text{and always} \quad
#   g_{\text{next}} = J\,(g - \Delta G\, \gamma).$$
#
# Now every new residual is $J$ times a vector that $P$ sends to zero: it lives in a space with $s$
# dimensions fewer than all $n$. After $s + 1$ such residuals all differences live there too, and
# the next one is $J$ times a vector *from that space* that $P$ sends to zero: $s$ dimensions fewer
# again. This **induced dimension reduction** goes down like stairs, and below the last step there
# is only the zero vector: with $n = 24$ and $s = 4$, six steps of five evaluations each.
#
# In the picture, row $j$ tests whether $P J^{-j} g = 0$. The map has all eigenvalues on a circle of
# radius 0.8, which is hard for everybody: no polynomial of low degree is small there. IDR(4)
# needs 31 evaluations with four differences; all differences need 26; Anderson with four of them
# needs about 100, as many as forward iteration.

# %%
n, s = 24, 4
circle = PROBLEMS["affine"](size=n, spectrum="circle", spectral_radius=0.8, dtype="float64").build()
J = (circle.f(torch.eye(n)) - circle.f(torch.zeros(n, n))).T
P = torch.from_numpy(Shadow.like(circle.z0, s).products(torch.eye(n))).T  # (s, n), the method's own

_, g, induced = residuals(circle.f, circle.z0, IDR(shadow=s), rtol=1e-10)
tests, rows = [], P
for _ in range(n // s):
    rows = torch.linalg.solve(J.T, rows.T).T  # P J^-j
    tests.append((g @ rows.T).norm(dim=1) / (g.norm(dim=1) * torch.linalg.matrix_norm(rows, 2)))
tests = torch.stack(tests)  # (6, evaluations)

others = {"all differences": everything, "Anderson, window 4": Anderson(window=4),
          "forward": Picard()}  # fmt: skip
counts = {"IDR(4)": induced.num_evals} | {
    name: solve(circle.f, circle.z0, method, rtol=1e-10).check().num_evals
    for name, method in others.items()
}
drawing_roots.stairs(tests[:, :-1], counts)

# %%
for j in range(1, n // s):  # step j is reached with evaluation 1 + 5 j
    assert tests[j - 1, 5 * j : -1].max() < 1e-8 < 1e-4 < tests[j - 1, : 5 * j].max()

assert n // s == 6 and s + 1 == 5 and induced.converged.all()
assert counts["IDR(4)"] == n + n // s + 1 == 31 and counts["all differences"] == n + 2 == 26
assert 95 <= counts["Anderson, window 4"] <= 105 and 95 <= counts["forward"] <= 105

# %% [markdown]
# ## 8. When memory misleads
#
# All of this was linear. On a curved map $\Delta G = -(I - J)\, \Delta Z$ is only nearly true, the
# less so the older the differences are, and where the map has kinks it may be plainly wrong. Does
# memory deserve trust? One can ask the map: evaluate it once at $z - \Delta Z\, \gamma$. If the map
# were affine, the residual there would be $g - \Delta G\, \gamma$, which is known *before* the
# evaluation. `restart="auto"` makes this **probe** when its window is full for the first time, and
# acts on how far off the foretold residual was:
#
# * rounding errors: the map is affine. Two pairs if it is symmetric, IDR if not;
# * less than 0.4 of itself: keep slow directions, and drop them when the residual grows;
# * more: old differences mislead, a full window is dropped.
#
# Let us make the probe by hand on six maps, after eleven evaluations, and compare with what the
# method says of itself in `result.notes`.

# %%
maps = {
    "85 numbers": (f, z0),
    "Poisson": PROBLEMS["poisson"](size=24, dtype="float64").build(),
    "wind": PROBLEMS["convection"](size=24, convection=20.0, dtype="float64").build(),
    "Bratu": PROBLEMS["bratu"](size=24, dtype="float64").build(),
    "tanh layer": PROBLEMS["tanh"](gain=1.3, batch_size=1, dtype="float64").build(),
    "lasso": PROBLEMS["lasso"](dtype="float64").build(),
}
maps = {name: it if isinstance(it, tuple) else (it.f, it.z0) for name, it in maps.items()}


def probe(f, z0):
    """How far off the foretold residual is, as a part of it."""
    z, g, _ = residuals(f, z0, histories["sliding"], rtol=0.0, max_iter=11)
    dZ, dG = z.diff(dim=0), g.diff(dim=0)
    gamma = torch.linalg.lstsq(dG.T, g[-1][:, None]).solution[:, 0]
    foretold = g[-1] - gamma @ dG
    there = (z[-1] - gamma @ dZ).reshape(z0.shape)
    return ((f(there) - there).flatten() - foretold).norm() / foretold.norm()


off = {name: probe(*it).item() for name, it in maps.items()}
drawing_roots.probes(off, misled=0.4)

# %%
chosen = Anderson(window=10, restart="auto")
said = {name: solve(*it, chosen, rtol=1e-10, max_iter=400) for name, it in maps.items()}
for name, result in said.items():
    print(f"{name}: {result.notes[0]}")

assert max(off[name] for name in ("85 numbers", "Poisson", "wind")) < 1e-11
assert "symmetric: two" in said["Poisson"].notes[0] and "IDR" in said["wind"].notes[0]
for name in ("Bratu", "tanh layer"):
    assert 1e-5 < off[name] < 0.4 and "slow directions" in said[name].notes[0]
assert off["lasso"] > 0.4 and "mislead" in said["lasso"].notes[0]
for name in ("Bratu", "tanh layer", "lasso"):  # the method's own figure is the one made by hand
    assert f"off by {off[name]:.1g} of itself" in said[name].notes[0]

# %% [markdown]
# ## 9. Which memory is best? It depends
#
# Evaluations to a relative residual of $10^{-10}$, with ten differences (two for the short
# recurrence), and with all of them. No way to forget is best everywhere. Two pairs are unbeatable
# on symmetric linear maps and lose on all others. IDR wins in the wind and never arrives on the
# lasso (a dash: not within 600). Slow directions win on Bratu's equation; on the lasso nothing is
# much better than a full restart. Sliding is the worst of all on Poisson's equation and good on a
# tanh layer. And more memory can even hurt: on the lasso, all differences take more evaluations
# than ten.
#
# Nobody should have to know this by heart. `auto` pays one evaluation for its probe, and takes at
# most 20 % more than the best window in each row; mostly two evaluations more, or fewer.

# %%
methods = {
    "sliding": histories["sliding"],
    "full restart": histories["full restart"],
    "deflated": histories["deflated restart"],
    "short recurrence": ShortRecurrence(),
    "IDR": IDR(shadow=10),
    "auto": chosen,
    "all differences": everything,
}
rows = {}
for name, it in maps.items():
    runs = {word: solve(*it, method, rtol=1e-10, max_iter=600) for word, method in methods.items()}
    rows[name] = {
        word: run.num_evals if run.converged.all() else math.inf for word, run in runs.items()
    }
counted = pd.DataFrame(rows).T
counted.map(lambda count: f"{count:.0f}" if count < math.inf else "-")

# %%
windows, symmetric = counted.drop(columns=["auto", "all differences"]), ["85 numbers", "Poisson"]
best_of = windows.min(axis=1)
winner = windows.idxmin(axis=1)
behind = counted["auto"] - best_of
assert (behind <= 0.2 * best_of).all() and behind.median() <= 2
assert all((winner == "short recurrence") == winner.index.isin(symmetric))
assert winner["wind"] == "IDR" and counted.loc["lasso", "IDR"] == math.inf
assert winner["Bratu"] == "deflated" and windows.loc["Poisson"].idxmax() == "sliding"
assert counted.loc["lasso", "full restart"] <= best_of["lasso"] + 3
assert counted.loc["tanh layer", "sliding"] < 1.1 * best_of["tanh layer"]
assert counted.loc["lasso", "all differences"] > counted.loc["lasso", "sliding"]

# %% [markdown]
# ## 10. What it costs
#
# Fewer evaluations are not yet less time. Between two of them Anderson mixes, and if that takes
# $c$ seconds where the map takes $t$, it is
#
# $$S = \frac{N_{\text{forward}} / N_{\text{Anderson}}}{1 + c / t}$$
#
# times as fast as forward iteration. **Mixing pays if the ratio of evaluations exceeds
# $1 + c/t$.** Three maps, at a tolerance of $10^{-6}$:
#
# * *Poisson* on 48 x 48 points: more than 40 times fewer evaluations. Its map is cheap, but mixing
#   may take 40 times as long as the map and still pay.
# * *tanh*: a random layer of 128 neurons. Some 41 evaluations against 30: a ratio of about 1.4. It
#   pays only if the map costs more than about 2.7 mixing steps.
# * *Newton's cube roots*, of notebook 01: Anderson takes more evaluations than forward iteration.
#   No map is dear enough for that.
#
# A curve for each ratio; the circles are where this machine stands. Left of the place where a curve
# crosses the line at 1, forward iteration is faster.

# %%
specs = {
    "Poisson": SolveSpec(problem=PROBLEMS["poisson"](size=48), rtol=1e-6, max_iter=5000),
    "tanh": SolveSpec(problem=PROBLEMS["tanh"](gain=0.9), rtol=1e-6),
    "Newton": SolveSpec(problem=PROBLEMS["newton"](), rtol=1e-6),
}
runs, verdicts, ratios, prices = {}, {}, {}, {}
for name, spec in specs.items():
    spec.replace(max_iter=5).run()  # warm up
    plain, mixed = runs[name] = spec.replace(method=Picard()).run(), spec.run()
    verdicts[name] = crossover(plain, mixed)
    ratios[name] = plain.num_evals / mixed.num_evals
    prices[name] = 1 / verdicts[name].mixing_penalty

drawing_roots.speedups({name: (ratios[name], prices[name]) for name in specs}, speedup)

# %%
for name, (plain, mixed) in runs.items():
    S = speedup(plain.num_evals, mixed.num_evals, prices[name], 1.0)
    print(f"{name}: {plain.num_evals} against {mixed.num_evals} evaluations, S = {S:.2g}")
    print("   measured:", verdicts[name].sentence)

assert ratios["Poisson"] > 41 and verdicts["Poisson"].kind in ("at", "from the start")
assert all(abs(run.num_evals - n) <= 1 for run, n in zip(runs["tanh"], (41, 30), strict=True))
assert abs(ratios["tanh"] - 1.4) < 0.1 and abs(1 / (ratios["tanh"] - 1) - 2.7) < 0.5
assert specs["tanh"].problem.size == 128 and specs["Poisson"].problem.size == 48
assert verdicts["tanh"].by_evaluations.kind in ("at", "from the start")
assert ratios["Newton"] < 1 and verdicts["Newton"].kind == "none"

# %% [markdown]
# (On cheap maps the measured speed-up is larger than $S$, because forward iteration has costs
# between its evaluations, too: it has to test the residual. Count those with the map, on both
# sides, and the formula is exact.)

# %%
plain, mixed = runs["Poisson"]
forward_seconds, seconds = (
    (run.history.map_seconds.sum() + run.history.method_seconds.sum()).item()
    for run in (plain, mixed)
)
t = forward_seconds / plain.num_evals  # the map, and forward iteration's own work
c = seconds / mixed.num_evals - t  # what mixing takes beyond that
S = speedup(plain.num_evals, mixed.num_evals, t, c)
print(f"with forward iteration's own work counted: S = {S:.2g}")

assert math.isclose(S, forward_seconds / seconds)

# %% [markdown]
# ## 11. Let it decide
#
# Two choices are left, and both can be made while the solve is under way. `restart="auto"` chooses
# the memory, by a probe. `Auto()` chooses **whether** to mix, by the clock: it begins with forward
# iteration, forecasts how many steps that will take, tries Anderson as soon as a trial is cheap
# beside them, and keeps what falls faster by the second. It writes down why.

# %%
for name, spec in specs.items():
    result = spec.replace(method=Auto()).run().check()
    print(f"{name}: {result.num_evals} evaluations")
    for note in result.notes or ("forward iteration to the end: a trial would not have paid",):
        print("   ", note)
    if name == "Poisson":
        assert result.notes and result.num_evals < runs[name][0].num_evals / 4

# %% [markdown]
# ## 12. Exercise: the slowest direction
#
# You get $m$ differences of points and of residuals, the rows of `dz` and `dg`. Return the $m$
# weights $y$ of the slowest combination: `(y @ dg).norm() / (y @ dz).norm()` as small as possible.
# (The length and the sign of $y$ do not matter. Section 5 has the answer in two lines, once you see
# what they do.)


# %%
def my_slowest(dz, dg):
    return torch.eye(len(dz))[-1]  # the newest difference: combine them all


# %%
from solutions.crossover_02 import check

print(check(my_slowest))

# %% jupyter={"source_hidden": true} tags=["hide-input"]
from solutions.crossover_02 import solution

assert check(solution).passed
