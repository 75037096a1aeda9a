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
# # How many past steps are worth remembering?
#
# A **fixed point** of a map $f$ is a point that $f$ leaves alone: $z = f(z)$. Steady states in
# physics are fixed points, and so is the output of a *deep equilibrium model* (DEQ), a network
# that repeats one layer until nothing changes any more.
#
# The obvious way to find one is **forward iteration**: put the output back in, again and again.
# **Anderson acceleration** (Anderson 1965) looks back at the last few steps and extrapolates.
# This notebook starts with one number and a pocket calculator and ends with a network that reads
# handwritten digits. Run the cells from top to bottom with Shift+Enter; all of them take about
# half a minute.
#
# Every number in the text is checked by an `assert` in a cell beside it: if the text is wrong,
# the notebook stops.

# %%
import math

import drawing
import ipywidgets as widgets
import numpy as np
import pandas as pd
import panel as pn
import torch
from IPython.display import display

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec, Status, crossover, solve

torch.set_num_threads(1)  # seconds below are the CPU time of this one thread
pn.extension(inline=True)  # figures carry their own JavaScript: nothing is loaded from the internet

# %% [markdown]
# ## 1. One number: press cos until nothing changes
#
# Take a pocket calculator. It shows 0. Press cos, and again, and again: after a while the display
# stays at 0.739085, the number with $z = \cos z$. Every press shrinks the error by the slope of the
# map at the fixed point, here 0.674, so each further correct digit costs about six presses.
#
# `solve` presses the button for us. `Picard` is forward iteration under its mathematical name;
# `rtol` says when to stop: once $f(z)$ differs from $z$ by less than that fraction.

# %%
z0 = torch.tensor([0.0], dtype=torch.float64)
pressed = solve(torch.cos, z0, Picard(), rtol=1e-10)
print(f"z = {pressed.z.item():.6f} after pressing cos {pressed.num_evals} times")

slope = torch.sin(pressed.z).item()  # of cos at its fixed point, without the sign
assert f"{pressed.z.item():.6f}" == "0.739085" and f"{slope:.3f}" == "0.674"
assert pressed.num_evals == 60
assert round(math.log(0.1) / math.log(slope)) == 6  # presses for a factor of ten

# %% [markdown]
# ## 2. Draw a line through two points
#
# A fixed point of $f$ is a zero of the **residual** $g(z) = f(z) - z$: there the graph of $f$ meets
# the diagonal. Forward iteration uses only the latest point of the graph. The **secant method**
# uses the latest two: it draws the line through them and goes to where that line meets the
# diagonal,
#
# $$\gamma = \frac{g_k}{g_k - g_{k-1}}, \qquad
#   z_{k+1} = f(z_k) - \gamma\,\bigl(f(z_k) - f(z_{k-1})\bigr).$$

# %%
forward, secant = [z0], [z0, torch.cos(z0)]  # a line needs two points
for _ in range(7):
    forward.append(torch.cos(forward[-1]))

for _ in range(4):
    before, now = secant[-2:]
    f_before, f_now = torch.cos(before), torch.cos(now)
    gamma = (f_now - now) / ((f_now - now) - (f_before - before))
    secant.append(f_now - gamma * (f_now - f_before))

forward, secant = torch.cat(forward), torch.cat(secant)
drawing.cobwebs(torch.cos, forward, secant, 0, 1.1)

# %% [markdown]
# Three lines give $z_4 = 0.7391$, all four digits right; seven presses give $z_7 = 0.7640$.
#
# Anderson acceleration that remembers **one** difference, `Anderson(window=1)`, is this method:
# the iterates are the same numbers, and 7 evaluations of cos replace 60.


# %%
def trace(f, z0, method, **knobs):
    """Solve, and keep every point at which f was evaluated."""
    points = []
    result = solve(f, z0, method, on_step=lambda step: points.append(step.z().clone()), **knobs)
    return result, torch.stack(points)


remembering, iterates = trace(torch.cos, z0, Anderson(window=1), rtol=1e-10)

assert f"{secant[4]:.4f}" == f"{pressed.z.item():.4f}" == "0.7391"
assert f"{forward[7]:.4f}" == "0.7640"
assert torch.allclose(iterates[:6, 0], secant, rtol=0, atol=1e-12)
assert remembering.num_evals == 7
drawing.residual_curves(1e-10, seconds=False, picard=pressed, anderson=remembering)

# %% [markdown]
# ## 3. Many numbers: least squares
#
# With $n$ numbers, $g$ is a vector, and one difference can no longer make it zero. So take up to
# $m$ differences of the past, $\Delta G$ of the residuals and $\Delta Z$ of the points, and make
# the residual as **small** as they can:
#
# $$\gamma = \arg\min_\gamma \lVert g_k - \Delta G\,\gamma \rVert_2, \qquad
#   z_{k+1} = z_k + g_k - (\Delta Z + \Delta G)\,\gamma.$$
#
# That is the whole method (Anderson 1965; Walker and Ni 2011). The number $m$ is called the
# **window**; with $m = 0$ we are back at forward iteration. Let us take one step by hand, on a
# linear map of six numbers, with four points behind us and a window of 3.

# %%
linear = PROBLEMS["affine"](size=6, spectral_radius=0.95, dtype="float64").build()
_, Z = trace(linear.f, linear.z0, Anderson(window=3, regularization=0.0), max_iter=5)
Z = Z[:, 0]  # five points of six numbers
G = linear.f(Z[:4]) - Z[:4]  # the residuals of the first four
dZ, dG = Z[1:4] - Z[:3], G[1:] - G[:3]

gamma = torch.linalg.lstsq(dG.T, G[3]).solution
by_hand = Z[3] + G[3] - gamma @ (dZ + dG)

assert torch.allclose(by_hand, Z[4], rtol=1e-9)
print("by hand:     ", by_hand.numpy().round(6))
print("the package: ", Z[4].numpy().round(6))

# %% [markdown]
# ## 4. Three knobs: mixing, regularization, restart
#
# * **mixing** $\beta$ is how much of the residual is added at the end: $z_k + \beta g_k - \dots$;
#   1 trusts the map fully, less is careful.
# * **regularization** $\lambda$ keeps the weights small when old differences look alike.
# * **restart** says what to do with a full window: `"full"` (the default) forgets all but the
#   newest difference and starts to collect again, `"never"` drops only the oldest one.
#
# The temperature of a plate (Poisson's equation on a grid of 32 x 32) shows what they do. Forward
# iteration needs about 1850 evaluations, Anderson with its defaults about 75. Sliding needs 2.4
# times as many as restarting here; half the mixing or a strong ridge cost a little; and a window
# of 1 is hardly better than none.

# %%
methods = {
    "forward iteration": Picard(),
    "Anderson, window 5": Anderson(),
    "... restart never": Anderson(restart="never"),
    "... regularization 0.1": Anderson(regularization=0.1),
    "... mixing 0.5": Anderson(mixing=0.5),
    "Anderson, window 1": Anderson(window=1),
    "Anderson, window 2": Anderson(window=2),
    "Anderson, window 10": Anderson(window=10),
}
plate = SolveSpec(problem=PROBLEMS["poisson"](size=32), rtol=1e-6, max_iter=3000)
runs = {name: plate.replace(method=method).run().check() for name, method in methods.items()}
counts = {name: run.num_evals for name, run in runs.items()}

assert 1800 <= counts["forward iteration"] <= 1900
assert 70 <= counts["Anderson, window 5"] <= 80
assert 2.0 <= counts["... restart never"] / counts["Anderson, window 5"] <= 2.8
assert all(1.0 < counts[name] / 75 < 1.3 for name in ("... regularization 0.1", "... mixing 0.5"))
assert 0.8 <= counts["Anderson, window 1"] / counts["forward iteration"] <= 1.0
pd.Series(counts, name="evaluations").to_frame()

# %% [markdown]
# ## 5. A linear map has nowhere to hide
#
# On a linear map of $n$ numbers, $n$ independent differences tell *everything* about the map: with
# $m \ge n$ the residual can be made zero, and the next point is exact. Anderson that forgets
# nothing is then in essence GMRES, the standard solver of linear systems (Walker and Ni 2011).
#
# Our map has six numbers and **expands**: its eigenvalues reach 1.5 from zero, so forward
# iteration runs away, a million times its first residual after 37 evaluations. Anderson needs
# 8: seven to build the exact point, one to see that it is exact.

# %%
expanding = SolveSpec(
    problem=PROBLEMS["affine"](size=6, spectral_radius=1.5, spectrum="disc", dtype="float64"),
    method=Anderson(window=6, regularization=0.0), rtol=1e-10,
)  # fmt: skip
runaway, exact = expanding.replace(method=Picard()).run(), expanding.run()
for name, run in {"forward iteration": runaway, "Anderson": exact}.items():
    print(f"{name}: {Status(run.status.item()).name} after {run.num_evals} evaluations")

assert runaway.status.item() == Status.DIVERGED and runaway.num_evals == 37
assert exact.status.item() == Status.CONVERGED and exact.num_evals == 6 + 2
assert torch.allclose(exact.z, expanding.problem.build().z_star, rtol=1e-10)

# %% [markdown]
# A map need not expand to be hopeless for forward iteration. This one turns the plane by 60
# degrees about a center: forward iteration walks round a circle and is back at its start after six
# steps. Anderson looks at three points of the circle and goes to its center: the fourth evaluation
# is exact.

# %%
turn = PROBLEMS["rotation"](size=1, angle=60.0, dtype="float64").build()
_, circling = trace(turn.f, turn.z0, Picard(), max_iter=7)
arrived, straight = trace(turn.f, turn.z0, Anderson(window=2), rtol=1e-10)

assert torch.allclose(circling[6], circling[0], atol=1e-12)
assert arrived.converged.all() and arrived.num_evals == 4
assert torch.allclose(straight[3], turn.z_star, atol=1e-12)
drawing.plane_paths(turn.z_star[0], circling[:, 0], straight[:, 0])

# %% [markdown]
# ## 6. How fast is Anderson? It depends on where you start
#
# Forward iteration on a linear map $z \mapsto M z$ has *one* speed: in the long run every step
# shrinks the distance by the largest eigenvalue of $M$, from (nearly) every start. Such a number,
# $\limsup \lVert z_k - z^* \rVert^{1/k}$, is called the **r-linear factor**. For
#
# $$M = \begin{pmatrix} 2/3 & 1/4 \\ 0 & 1/3 \end{pmatrix}$$
#
# it is 0.667. And for Anderson with a window of 1? Toth and Kelley (2015) proved a bound: where a
# linear map shrinks every distance at least by a factor $c < 1$, Anderson's residual shrinks at
# least like $c^k$. How much faster it is, De Sterck and He (2022) measured, and found something
# odd: the factor depends on the start. Let us do the same from 25,600 starts at once, each a
# sample of one batch.

# %%
M = torch.tensor([[2 / 3, 1 / 4], [0, 1 / 3]], dtype=torch.float64)
sliding = Anderson(window=1, restart="never", regularization=0.0, fallback=False)


def shrink(z):
    return z @ M.T  # the fixed point is 0


def rates(method, starts, first=0, last=48):
    """The shrinkage per step from step `first` to step `last`, and the points on the way."""
    _, points = trace(shrink, starts, method, rtol=0.0, max_iter=last + 1)
    distance = points.norm(dim=2)
    return (distance[last] / distance[first]) ** (1 / (last - first)), points


axis = (torch.arange(160, dtype=torch.float64) + 0.5) / 80 - 1
factors, _ = rates(sliding, torch.cartesian_prod(axis, axis))
forward_factors, _ = rates(Picard(), torch.cartesian_prod(axis, axis), first=48, last=96)

assert factors.numel() == 25_600
assert 0 <= factors.min() < 0.02 and 0.40 < factors.max() < 0.42
assert f"{forward_factors.median():.3f}" == "0.667"
print(
    f"Anderson {factors.min():.2f} to {factors.max():.2f}, forward {forward_factors.median():.3f}"
)

# %% [markdown]
# Anderson's factor lies between 0 and 0.41. It is constant along every ray from the fixed point:
# Anderson on a linear map does not notice the scale, so only the **angle** of the start counts,
# and the plane looks like a fan. Along 0 and 126.9 degrees lie the two eigenvectors of $M$: from
# there the problem is one-dimensional, and the secant method is exact.
#
# **Click or drag** the start in the fan (or use the slider). To the right are the weights
# $\gamma_k$ of the steps. They *never settle*, however close the iterates are to the fixed point:
# that is why the speed can depend on the start for ever.

# %%
angles = torch.deg2rad(torch.arange(0, 180, 0.5, dtype=torch.float64))
starts = torch.stack([angles.cos(), angles.sin()], dim=1)
ray_factors, path = rates(sliding, starts)
_, forward_path = rates(Picard(), starts)

# The weight of each step, read off the points: z_{k+1} = f(z_k) - gamma (f(z_k) - f(z_{k-1})).
image = shrink(path)
change = image[1:-1] - image[:-2]
gamma = ((image[1:-1] - path[2:]) * change).sum(2) / change.square().sum(2)

drawing.rate_fan(
    factors.reshape(160, 160), ray_factors.nan_to_num(0), path.nan_to_num(0), forward_path,
    gamma.nan_to_num(0), angle=30.0,
)  # fmt: skip


# %%
def factor_at(degrees, length=1.0):
    turn = math.radians(degrees)
    start = torch.tensor([[math.cos(turn), math.sin(turn)]], dtype=torch.float64)
    return rates(sliding, length * start)[0].item()


assert abs(factor_at(30) - factor_at(30, length=1000)) < 1e-6  # the scale does not count
assert abs(factor_at(30) - factor_at(210)) < 1e-6  # nor does the sign
assert factor_at(126.87) < 0.02 and factor_at(30) > 0.40  # the angle does
assert ray_factors[0].nan_to_num(0) < 0.02  # from 0 degrees
directions = torch.linalg.eig(M).eigenvectors.real  # a column each
assert {f"{math.degrees(math.atan2(y, x)) % 180:.1f}" for x, y in directions.T} == {"0.0", "126.9"}
late = gamma[30:, 60]  # the weights from 30 degrees, 30 steps in
assert late.max() - late.min() > 1  # never settle

# %% [markdown]
# ## 7. A network that reads digits
#
# Now something real: a small convolutional DEQ, trained to read handwritten digits, and 64 digits
# that it has never seen. Its state has 3072 numbers per digit, and each digit is solved on its own:
# own window, own weights, own stopping.

# %%
digits = SolveSpec(problem=PROBLEMS["digits_deq"](batch_size=64), rtol=1e-4, max_iter=400)
digits.replace(max_iter=3).run()  # warm up: the first call of a network is slower

forward = digits.replace(method=Picard()).run()
anderson = digits.run()

point = crossover(forward, anderson)
print(point.sentence)
drawing.residual_curves(1e-4, point, crop=True, picard=forward, anderson=anderson)

# %% [markdown]
# The lines are medians over the 64 digits, the bands hold the middle 80 %. (The thin lines are the
# worst digit; they run out of the frame, and section 8 is about them.) Look at the left figure
# first: by **evaluations** the median digit needs 65 with forward iteration and 32 with Anderson,
# half as many.
#
# The right figure is the honest one: by **seconds**. A step of Anderson costs more than a step of
# forward iteration, by the *mixing penalty*, so at first it is behind. Where it overtakes for
# good is the **crossover point**, the dot. How large the penalty is depends on your machine and on
# the map: the dearer the map, the sooner mixing pays.

# %%
print(f"one mixing step costs {point.mixing_penalty:.2f} times the map on this machine")
print("in evaluations, Anderson is ahead from number", int(point.by_evaluations.evaluations))

network = digits.problem.build()
same = network.predict(forward.z).argmax(1) == network.predict(anderson.z).argmax(1)

assert anderson.converged.all() and forward.converged.all() and same.all()
assert network.z0[0].numel() == 3072 and len(same) == 64
assert 60 <= forward.sample_evals.median() <= 70
assert 29 <= anderson.sample_evals.median() <= 35
assert point.by_evaluations.kind == "at" and point.mixing_penalty > 0

# %% [markdown]
# Both methods end at the same equilibrium: the network reads the same 64 digits.
#
# ## 8. The stubborn digit
#
# One of the 64 digits is special. Here is what plain Anderson does with it.

# %%
plain = digits.replace(method=Anderson(fallback=False)).run()
stubborn = int(plain.relative_residual.argmax())

drawing.stubborn_picture(
    network.inputs[stubborn], stubborn, 1e-4,
    {
        "forward": ("picard", forward),
        "Anderson without fallback": ("anderson", plain),
        "Anderson": ("anderson", anderson),
    },
)  # fmt: skip

# %% [markdown]
# Forward iteration needs 265 evaluations for this digit, but it gets there. Plain Anderson circles
# at a residual above 0.001 for ever: the map has kinks (from its ReLUs), and the extrapolation
# jumps across the same ones again and again.
#
# So `Anderson` has a **fallback**, on unless you turn it off: a digit that circles without
# progress goes some plain steps from its best point with an empty memory, then tries again. It is
# not fast here, but it arrives, in well under forward iteration's count.

# %%
events = plain.diagnostics["fallbacks"], anderson.diagnostics["fallbacks"]

assert not plain.converged[stubborn] and plain.relative_residual[stubborn] > 1e-3
assert plain.converged.sum() == 63 and events[0] == 0
assert 240 <= forward.sample_evals[stubborn] <= 290
assert events[1] >= 1 and anderson.sample_evals[stubborn] < forward.sample_evals[stubborn]

# %% [markdown]
# ## 9. Where Anderson loses
#
# Newton's iteration for cube roots, $f(z) = z - (z^3 - a) / 3 z^2$, doubles the number of correct
# digits at every step. There is nothing to accelerate, and old points are so much worse than new
# ones that mixing them in only hurts. On 16 problems side by side, forward iteration has solved
# them all after 16 evaluations; Anderson's slowest one takes more than twice as many, if it is
# solved at all.

# %%
roots = SolveSpec(problem=PROBLEMS["newton"]())
newton, spoiled = roots.replace(method=Picard()).run(), roots.run()
print(crossover(newton, spoiled).sentence)
print(f"Anderson solves {spoiled.converged.sum()} of 16 in {spoiled.num_evals} evaluations.")

assert newton.converged.all() and newton.num_evals == 16 and len(newton.converged) == 16
assert spoiled.num_evals > 2 * newton.num_evals
assert crossover(newton, spoiled).kind == "none"
drawing.residual_curves(1e-6, picard=newton, anderson=spoiled)

# %% [markdown]
# ## 10. Your turn: move the knobs
#
# A random layer $f(z) = \tanh(Wz + x)$ of 128 neurons, fed its own output. Move the window to 0:
# the two curves become one. How small may the mixing be before Anderson is no better than forward
# iteration?

# %%
layer = SolveSpec(problem=PROBLEMS["tanh"](gain=1.3, batch_size=1), rtol=1e-6)
layer_forward = layer.replace(method=Picard()).run()
curves = drawing.Curves(1e-6, seconds=False)


def play(window, mixing):
    """Solve again with these knobs and draw; the numbers at the curves' ends are evaluations."""
    run = layer.replace(method=Anderson(window=window, mixing=mixing)).run()
    curves.show(picard=layer_forward, anderson=run)


window = widgets.IntSlider(5, min=0, max=20, description="window m")
mixing = widgets.FloatSlider(1.0, min=0.05, max=1.5, step=0.05, description="mixing β")
messages = widgets.interactive_output(play, {"window": window, "mixing": mixing})
display(widgets.VBox([window, mixing, messages]))
curves.pane

# %%
without_memory = layer.replace(method=Anderson(window=0)).run()
assert abs(without_memory.num_evals - layer_forward.num_evals) <= 1  # up to rounding
assert layer.problem.size == 128

# %% [markdown]
# ## 11. Your own map
#
# `explore(f, z0)` shows the live page of the dashboard for any map: a tensor or a NumPy array goes
# in, the same shape comes out. Here 100 people sit in a ring. Everybody's opinion becomes 90 % what
# the two neighbors think on average and 10 % what they thought at first; what do they think in
# the end? Forward iteration needs 131 rounds of talk, Anderson 29. (The page is served by this
# notebook's kernel and seen from this machine only.)

# %%
from lab import explore

first = np.random.default_rng(0).normal(size=(1, 100))  # a batch of one ring


def talk(z):
    neighbors = (np.roll(z, 1, axis=1) + np.roll(z, -1, axis=1)) / 2
    return 0.9 * neighbors + 0.1 * first


explore(talk, first, name="opinions in a ring")

# %%
assert 128 <= solve(talk, first, Picard()).check().num_evals <= 134
assert 27 <= solve(talk, first).check().num_evals <= 31

# %% [markdown]
# ## 12. Exercise: one step of AA(1)
#
# Write Anderson's step with a window of 1 for vectors. You get the previous point and its image,
# and the present point and its image; return the next point. (The picture in section 2 is the case
# $n = 1$; what replaces the division by $g_k - g_{k-1}$ when these are vectors?)


# %%
def my_step(z_old, f_old, z, f_z):
    return f_z  # forward iteration: now look back


# %%
from solutions.anderson_01 import check

print(check(my_step))

# %% jupyter={"source_hidden": true} tags=["hide-input"]
from solutions.anderson_01 import solution

assert check(solution).passed
drawing.reveal("Show a solution", solution)

# %% [markdown]
# ## References
#
# * D. G. Anderson (1965), Iterative procedures for nonlinear integral equations, J. ACM 12.
# * H. F. Walker and P. Ni (2011), Anderson acceleration for fixed-point iterations, SIAM J. Numer.
#   Anal. 49.
# * A. Toth and C. T. Kelley (2015), Convergence analysis for Anderson acceleration, SIAM J. Numer.
#   Anal. 53.
# * H. De Sterck and Y. He (2022), Linear asymptotic convergence of Anderson acceleration:
#   fixed-point analysis, SIAM J. Matrix Anal. Appl. 43; arXiv 2109.14176. See also arXiv
#   2109.14181, which reads Anderson as a Krylov method.
