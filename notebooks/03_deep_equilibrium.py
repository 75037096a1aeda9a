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
# # How does a network of infinitely many layers learn?
#
# Take one layer and repeat it, again and again, until the state that goes from one copy to the next
# no longer changes. What is left is a **deep equilibrium model** (DEQ; Bai, Kolter and Koltun
# 2019): a network of infinitely many layers, with the weights of one. This notebook builds such a
# network, finds its gradient without going back through a single one of its layers, trains it to
# read handwritten digits in about half a minute, and asks at each step what Anderson acceleration
# buys, and where it buys nothing. Notebook 01 says what Anderson acceleration is.
#
# Every number in the text is checked by an `assert` in a cell beside it.

# %%
import copy
import math
import warnings

import drawing
import drawing_deq
import pandas as pd
import panel as pn
import torch
from torch.autograd.functional import jvp
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy

from andersonn_core import DEQ, Anderson, Broyden, Picard, crossover, solve
from andersonn_core.cells import DenseCell
from andersonn_core.data import load_digits
from andersonn_core.deq import AdjointWarning, Neumann, Phantom, jacobian_penalty
from andersonn_core.models import DIGITS, EquilibriumNetwork
from andersonn_core.weights import load_digits_card

torch.set_num_threads(1)
pn.extension(inline=True)  # figures carry their own JavaScript: nothing is loaded from the internet

# %% [markdown]
# ## 1. From many layers to one
#
# Here is the simplest layer with an input: $f(z, x) = \tanh(W z + U x + b)$, a state $z$ of eight
# numbers, an input $x$ of one. Stacked to a depth of $K$, every layer with the *same* weights and
# fed the same $x$, it is $z_{k+1} = f(z_k, x)$ from $z_0 = 0$; a readout makes one number of $z_K$.
# The figure shows that number for networks of 1, 2, 4, ... layers.

# %%
torch.manual_seed(0)
cell = DenseCell(inputs=1, width=8).double().requires_grad_(False)
cell.state.weight *= 1.8  # feeds back more strongly than torch draws it
readout = torch.randn(8, dtype=torch.float64)
x = torch.linspace(-2, 2, 81, dtype=torch.float64)[:, None]  # 81 inputs

states = [torch.zeros(81, 8, dtype=torch.float64)]
for _ in range(400):
    states.append(cell(states[-1], x))
states = torch.stack(states)  # (401, 81, 8)

layer = DEQ(cell, method=Anderson(window=5), rtol=1e-12, max_iter=200)
z = layer(x)
distances = (states - z).norm(dim=2)  # (401, 81)

shown = {depth: states[depth] @ readout for depth in (1, 2, 4, 8, 16, 32)}
drawing_deq.depths(x[:, 0], shown, z @ readout, distances[1:150].amax(dim=1))

# %% [markdown]
# The first layers matter, later ones ever less: networks of 100 and of 200 layers agree to 0.001.
# The state has come to rest at an **equilibrium**, a point that the layer leaves alone,
#
# $$z^* = f(z^*, x).$$
#
# In the long run, each layer shrinks what is missing by the same factor: the largest eigenvalue of
# the Jacobian $J = \partial f / \partial z$ at $z^*$, its **spectral radius**. It depends on the
# input: 0.90 for the slowest of the 81, 0.81 for the median one.
#
# Nobody chose a depth, and the network of infinitely many layers has 80 parameters, as many as one
# layer; 200 layers with weights of their own would have 16,000.

# %%
radius = layer.spectrum(x).spectral_radius  # (81,)
slowest = int(radius.argmax())
factor = (distances[100, slowest] / distances[50, slowest]) ** (1 / 50)
parameters = sum(weight.numel() for weight in cell.parameters())

assert ((states[100] - states[200]) @ readout).abs().max() < 1e-3
assert abs(factor - radius[slowest]) < 1e-3 and f"{factor:.2f}" == "0.90"
assert f"{radius.median():.2f}" == "0.81"
assert parameters == 80 and 200 * parameters == 16_000

# %% [markdown]
# ## 2. An equilibrium is a root
#
# The equation $z = f(z, x)$ does not say that anybody has to walk through layers. $z^*$ is a zero
# of $g(z) = f(z, x) - z$, and any method that finds zeros may look for it. Walking through the
# layers is *forward iteration* (`Picard`), one way of many. They end at the same point, after 208
# evaluations of the layer, or 25 (Anderson), or 23 (Broyden).
#
# Sometimes the layers don't even lead there. Take a single neuron that contradicts itself,
# $f(z, x) = \tanh(-3 z + x)$. For inputs around 0, a stack of these says one thing if its depth is
# odd and another if it is even, however deep it is. An equilibrium exists all the same (the falling
# curve must meet the rising line), and Anderson finds it for all inputs, in 9 evaluations.

# %%
start = torch.zeros_like(states[0])
methods = {"forward iteration": Picard(), "Anderson": Anderson(), "Broyden": Broyden()}
runs = {
    name: solve(lambda z: cell(z, x), start, method, rtol=1e-10, max_iter=400).check()
    for name, method in methods.items()
}
counts = {name: run.num_evals for name, run in runs.items()}


def contrary(z):
    return torch.tanh(-3 * z + x)


stack = [torch.zeros_like(x)]
for _ in range(101):
    stack.append(contrary(stack[-1]))
root = solve(contrary, stack[0], Anderson(), rtol=1e-10).check()

drawing_deq.odd_and_even(x[:, 0], stack[100][:, 0], stack[101][:, 0], root.z[:, 0])

# %%
assert all(torch.allclose(run.z, z, atol=1e-8) for run in runs.values())
assert counts["forward iteration"] == 208
assert (counts["Anderson"], counts["Broyden"]) == (25, 23)
assert (stack[101] - stack[100])[abs(x) < 1].abs().min() > 1.5
assert torch.allclose(root.z, contrary(root.z), atol=1e-9) and root.num_evals == 9

# %% [markdown]
# ## 3. The gradient, without the layers
#
# To train we need the gradient of a loss $L(z^*)$ with respect to the weights $p$. No layers have
# been kept that one could go back through, and none are needed. The equilibrium is *defined* by
# $z^* = f(z^*, p)$; move $p$ a little, and $z^*$ moves so that this stays true:
#
# $$dz^* = J\, dz^* + \frac{\partial f}{\partial p}\, dp
#   \quad\Longrightarrow\quad
#   dz^* = (I - J)^{-1}\, \frac{\partial f}{\partial p}\, dp.$$
#
# That is the implicit function theorem. With $v = \partial L / \partial z^*$ the loss moves by
# $dL = v^T dz^*$. Give the inverse to $v$ instead of to $dp$ and call the result $u$:
#
# $$dL = u^T\, \frac{\partial f}{\partial p}\, dp, \qquad\text{where}\quad
#   u = J^T u + v .$$
#
# And $u = J^T u + v$ is a fixed point again, of a linear map. To evaluate that map is to send $u$
# backward through **one** layer. So the backward pass is a second solve, by any method, and then
# one more backward step, from $u$ to $p$. No matrix is ever built.

# %%
few = x[::10]  # nine inputs
wanted = torch.sin(2 * few[:, 0])
weights = cell.state.weight.requires_grad_()  # W, 8 x 8


def loss(z):
    return (z @ readout - wanted).square().sum()


equilibrium = DEQ(cell, rtol=1e-13, max_iter=400)  # gradient="implicit" is the default

# By hand: v, the solve for u, and one more step.
z_star = equilibrium(few).detach().requires_grad_()
(v,) = torch.autograd.grad(loss(z_star), z_star)
f_z = cell(z_star, few)  # one layer, recorded


def backward(u):
    return torch.autograd.grad(f_z, z_star, u, retain_graph=True)[0] + v


u = solve(backward, v, Anderson(), rtol=1e-12, max_iter=400).check().z
(by_hand,) = torch.autograd.grad(f_z, weights, u, retain_graph=True)
assert torch.allclose(u, backward(u), rtol=1e-10)

# By the layer.
(by_layer,) = torch.autograd.grad(loss(equilibrium(few)), weights)

# By dense linear algebra: J of each input as a matrix.
J = torch.func.vmap(torch.func.jacrev(cell))(z_star.detach(), few)  # (9, 8, 8)
dense_u = torch.linalg.solve((torch.eye(8) - J).mT, v)
(dense,) = torch.autograd.grad(f_z, weights, dense_u, retain_graph=True)


# By finite differences: move each of the 64 weights a little, there and back.
@torch.no_grad()
def moved(direction, h):
    """The slope of the loss along a direction of W, from two equilibria."""
    ends = []
    for sign in (1, -1):
        weights.add_(sign * h * direction)
        ends.append(loss(equilibrium(few, z0=z_star)))
        weights.sub_(sign * h * direction)
    return (ends[0] - ends[1]) / (2 * h)


units = torch.eye(64, dtype=torch.float64).reshape(64, 8, 8)
differences = torch.stack([moved(unit, 1e-5) for unit in units]).reshape(8, 8)

found = {"by the layer": by_layer, "dense": dense, "finite differences": differences}
off = {name: ((other - by_hand).norm() / by_hand.norm()).item() for name, other in found.items()}
pd.Series(off, name="differs from the gradient by hand by").map("{:.0e}".format).to_frame()

# %% [markdown]
# The layer and the dense matrices agree with the gradient by hand to ten digits, finite differences
# to seven; and it is they that are wrong in the next. With a coarse step $h$ they are off by a
# multiple of $h^2$, with a fine one they drown in rounding errors.

# %%
steps = [10.0**-k for k in range(1, 12)]
direction = torch.randn(8, 8, dtype=torch.float64)
slope = (by_hand * direction).sum()
errors = [(abs(moved(direction, h) - slope) / abs(slope)).item() for h in steps]
drawing_deq.finite_differences(steps, errors)

# %%
assert off["by the layer"] < 1e-10 and off["dense"] < 1e-10 and off["finite differences"] < 1e-7
assert 90 < errors[1] / errors[2] < 110  # a tenth of the step, a hundredth of the error
assert min(errors) < 1e-7 < errors[1] and errors[-1] > 10 * min(errors)

# %% [markdown]
# ## 4. What has to be remembered
#
# The usual way to train keeps what every layer has computed until the backward pass comes along:
# memory grows with the depth. The equilibrium remembers **one** layer, however many evaluations it
# took to find it. We count what autograd keeps, for the network that will read digits below: 32
# digits, a state of 24 channels with 8 x 8 pixels each.

# %%
SEED = 0
digits = load_digits()
torch.manual_seed(SEED)
network = EquilibriumNetwork(DIGITS, channels=24, inner_channels=32)
network = network.to(memory_format=torch.channels_last)  # faster on a CPU
encoded = network.encode(digits.train_images[:32]).detach()


def kept_bytes(gradient, evaluations):
    """The bytes of all tensors that the graph of z* holds."""
    storages = {}

    def note(tensor):
        storages[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    fixed = DEQ(network.cell, Picard(), rtol=0.0, max_iter=evaluations, gradient=gradient)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        z = fixed(encoded)
    assert fixed.last_forward.num_evals == evaluations and z.requires_grad
    return sum(storages.values())


evaluations = [5, 10, 20, 40]
kept = {
    gradient: [kept_bytes(gradient, count) for count in evaluations]
    for gradient in ("unrolled", "implicit")
}
drawing_deq.bytes_kept(evaluations, kept)

# %% [markdown]
# Unrolled, each evaluation adds 1.1 MB. Implicit, it is 1.4 MB once and for all, after 5
# evaluations as after 40. (The solver has a workspace of its own: Anderson's window of 5 holds
# differences of states, 0.2 MB each, however many evaluations there are.)

# %%
unrolled, implicit = kept["unrolled"], kept["implicit"]
each = [(unrolled[k] - unrolled[0]) / (evaluations[k] - 5) for k in range(1, len(evaluations))]
assert max(each) < 1.01 * min(each) and f"{each[0] / 1e6:.1f}" == "1.1"  # linear
assert len(set(implicit)) == 1 and f"{implicit[0] / 1e6:.1f}" == "1.4"  # flat
assert encoded.shape == (32, 24, 8, 8) and f"{4 * encoded.numel() / 1e6:.1f}" == "0.2"

# %% [markdown]
# ## 5. Cheaper gradients, and what they leave out
#
# Written out, $u = v + J^T v + (J^T)^2 v + \dots$, the **Neumann series**. Some methods take only
# its beginning. The *Jacobian-free* gradient (Fung et al. 2022) takes $u = v$, and no product with
# $J^T$ at all. `Neumann(terms=k)` takes $k$ products. The *phantom* gradient (Geng et al. 2021)
# sends $v$ back through $k + 1$ damped layers, which are $k$ products more than one layer. All of
# these are the backward solve, ended early. What is left out shows in the **angle** to the exact
# gradient. And one may end Anderson early, too.

# %%
warnings.simplefilter("ignore", AdjointWarning)  # here we end early on purpose; later we count
torch.manual_seed(0)
inputs, directions = 0.3 * torch.randn(16, 4).double(), torch.randn(16, 32).double()
words = {0.9: "well conditioned: spectral radius 0.56", 2.0: "badly conditioned: 0.96"}
products = list(range(0, 25, 2))
panels, exact, radii = {}, {}, {}


def gradients_of(cell, directions):
    """The gradient of sum(directions * z*) by any way, all parameters in one vector."""
    z_star = DEQ(cell, rtol=1e-11, max_iter=1000)(inputs).detach()

    def gradient(way, **knobs):
        equilibrium = DEQ(cell, rtol=1e-10, max_iter=1000, gradient=way, **knobs)
        total = (directions * equilibrium(inputs, z0=z_star)).sum()
        return torch.cat([each.flatten() for each in torch.autograd.grad(total, cell.parameters())])

    return gradient


def degrees(one, other):
    return math.degrees(math.acos(min(1.0, (one @ other / one.norm() / other.norm()).item())))


for gain, title in words.items():
    torch.manual_seed(0)
    random_cell = DenseCell(inputs=4, width=32).double()
    random_cell.state.weight.data *= gain
    gradient = gradients_of(random_cell, directions)
    exact[gain] = gradient("implicit")
    radii[gain] = DEQ(random_cell, rtol=1e-8, max_iter=1000).spectrum(inputs).spectral_radius
    ways = {
        "Neumann": [gradient(Neumann(terms=k)) for k in products],
        "phantom": [gradient(Phantom(steps=k + 1)) for k in products],
        "Anderson": [gradient("implicit", adjoint_max_iter=k + 1) for k in products],
    }
    panels[title] = {name: [degrees(g, exact[gain]) for g in found] for name, found in ways.items()}
    assert torch.equal(gradient("jacobian_free"), gradient(Neumann(terms=0)))

drawing_deq.angles(products, panels)

# %% [markdown]
# Where the layer contracts well, eight products are as good as all of them: the Neumann series is
# 0.1 degrees off. Where it does not, the Jacobian-free gradient points 48 degrees away, eight
# products leave 13 degrees and 24 still 3. Damping makes the phantom gradient slower at first.
#
# Anderson, ended early, is no wonder: for the first six products it is about as far off as the
# series. After 24 it is off by less than a tenth of that.

# %%
well, badly = panels.values()
assert f"{radii[0.9].max():.2f}" == "0.56" and f"{radii[2.0].max():.2f}" == "0.96"
assert products[3] == 6 and products[4] == 8 and products[-1] == 24
assert f"{well['Neumann'][4]:.1f}" == "0.1" and f"{badly['Neumann'][0]:.0f}" == "48"
assert f"{badly['Neumann'][4]:.0f}" == "13" and f"{badly['Neumann'][-1]:.0f}" == "3"
assert badly["phantom"][4] > badly["Neumann"][4] and well["phantom"][4] > well["Neumann"][4]
assert all(0.7 < badly["Anderson"][k] / badly["Neumann"][k] <= 1 for k in range(4))
assert badly["Anderson"][-1] < 0.1 * badly["Neumann"][-1]

# %% [markdown]
# ## 6. Train it to read
#
# Now 1437 handwritten digits to learn from and 360 to be tested on. An encoder turns the image into
# $x$, the cell is the convolutional one of the DEQ literature (two convolutions, three norms), and
# a linear readout turns $z^*$ into ten scores: 18,170 parameters. The training loop is that of any
# other network; only the layer in the middle is a solver, with a tolerance of 0.01 forward and
# backward. `compact=True` takes digits that have arrived out of the batch.

# %%
EPOCHS, RATE = 3, 3e-3
layer = DEQ(network.cell, Anderson(window=5), rtol=1e-2, max_iter=100, adjoint_max_iter=200,
            compact=True)  # fmt: skip
network.solve_with(layer)
optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
batches = EPOCHS * math.ceil(len(digits.train_labels) / 64)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=batches)
generator = torch.Generator().manual_seed(SEED)

losses, accuracy, snapshots = [], [], [copy.deepcopy(network.state_dict())]
spent = {"forward solve": [], "backward solve": []}
for _ in range(EPOCHS):
    for chosen in torch.randperm(len(digits.train_labels), generator=generator).split(64):
        optimizer.zero_grad()
        scores = network(digits.train_images[chosen])
        loss = cross_entropy(scores, digits.train_labels[chosen])
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        spent["forward solve"].append(layer.last_forward.sample_evals.double().mean().item())
        spent["backward solve"].append(layer.last_adjoint.sample_evals.double().mean().item())
    with torch.no_grad():
        predicted = network(digits.test_images).argmax(dim=1)
    accuracy.append(digits.accuracy(predicted, digits.test_labels))
    snapshots.append(copy.deepcopy(network.state_dict()))

drawing_deq.training(losses, accuracy, spent)

# %% [markdown]
# After three epochs it reads more than 95 % of the digits that it has never seen. (With ten epochs
# and twice the channels, the network of notebook 01 reads 99 % of them.) The evaluations per digit
# rise in the first epoch and stay up: the next section asks why. Should a backward solve not arrive
# within 200 evaluations, `layer.tally` counts it, and the gradient is the best that was found; here
# that is fewer than one in a hundred.

# %%
tally, steady = layer.tally, spent["forward solve"]
print(f"test accuracy {accuracy[-1]:.1%}; {tally}")
assert accuracy[-1] > 0.95 and losses[-1] < 0.5 < losses[0]
assert load_digits_card(0)["epochs"] == 10 and load_digits_card(0)["held_out_accuracy"] > 0.99
assert sum(steady[-23:]) > 1.5 * sum(steady[:23])  # the last epoch, the first
assert tally.adjoint == 3 * 1437 and tally.adjoint_unconverged < 0.01 * tally.adjoint
assert digits.sizes == (1437, 360) and layer.knobs.adjoint.rtol == layer.knobs.rtol == 0.01
assert sum(weight.numel() for weight in network.parameters()) == 18_170

# %% [markdown]
# ## 7. The model stiffens
#
# Nothing in the loss asks for an equilibrium that is easy to find. We take the four sets of
# weights, before training and after each epoch, and 32 digits of the test set, and ask each time:
# how large is the spectral radius of the layer, and how many evaluations do both methods need, *on
# the same weights*, to a tolerance of $10^{-4}$?

# %%
some = digits.test_images[:32]
looks = []


def evaluations_to(run, tolerance):
    """The evaluation at which the median digit first meets a tolerance."""
    met = run.history.relative_residual <= tolerance  # (K, B)
    first = torch.where(met.any(dim=0), met.int().argmax(dim=0) + 1.0, torch.inf)
    return first.median().item()


for weights in snapshots:
    network.load_state_dict(weights)
    with torch.no_grad():
        x = network.encode(some)
        runs = {
            name: solve(lambda z, x=x: network.cell(z, x), torch.zeros_like(x), method, rtol=1e-5,
                        max_iter=150)
            for name, method in {"forward iteration": Picard(), "Anderson": Anderson()}.items()
        }  # fmt: skip
    radius = layer.spectrum(x[:8], norm=False).spectral_radius.median().item()
    looks.append((radius, runs))

stiffness = [radius for radius, _ in looks]
needed = {
    name: [evaluations_to(runs[name], 1e-4) for _, runs in looks]
    for name in ("forward iteration", "Anderson")
}
drawing_deq.stiffening(stiffness, needed)

# %% [markdown]
# The untrained layer contracts comfortably, with a spectral radius of about 0.8. One epoch later it
# is about 0.9 or above, and forward iteration needs at least twice as many evaluations. In this
# training the first epoch does it, and the later ones change little.
#
# Anderson pays for the stiffness, too. Its count stays near half of forward iteration's, before
# training and after; what grows is what it saves in each solve, from about 12 evaluations to about
# 30.

# %%
forward, anderson = needed["forward iteration"], needed["Anderson"]
saved = [a - b for a, b in zip(forward, anderson, strict=True)]
assert 0.75 < stiffness[0] < 0.86 and all(radius > 0.87 for radius in stiffness[1:])
assert all(count >= 2 * forward[0] for count in forward[1:])
assert 0.6 < forward[-1] / forward[1] < 1.3
assert all(1.6 < a / b < 2.7 for a, b in zip(forward, anderson, strict=True))
assert 10 <= saved[0] <= 15 and 24 <= saved[-1] <= 38

# %% [markdown]
# ## 8. Where Anderson helps, and where it does not
#
# A solve has met all looser tolerances on its way to $10^{-5}$, so the same runs tell the ratio of
# evaluations for each of them. A ratio of 1 means that Anderson saves nothing; and since it also
# has to mix, it must save more than the mixing costs. That line depends on your machine.

# %%
tolerances = [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5]
ratios = {
    words: [evaluations_to(runs["forward iteration"], tol) / evaluations_to(runs["Anderson"], tol)
            for tol in tolerances]
    for words, (_, runs) in {"untrained": looks[0], "trained": looks[-1]}.items()
}  # fmt: skip
points = [
    crossover(runs["forward iteration"], runs["Anderson"]) for _, runs in (looks[0], looks[-1])
]
even = 1 + points[1].mixing_penalty
for words, point in zip(ratios, points, strict=True):
    print(f"{words}: {point.sentence}")
drawing_deq.gains(tolerances, ratios, even)

# %% [markdown]
# * At a tolerance of 0.1, where training may well begin, both take the **same number** of
#   evaluations. Anderson loses, by what it costs to mix.
# * At 0.01 it takes 1.1 to 1.5 times fewer: about what a mixing step costs with so small a cell,
#   neither gain nor loss.
# * At $10^{-4}$ it takes about half as many, and it pays.
#
# The lines of the untrained and the trained network are nearly the same: what decides is not the
# age of the model but how exact an equilibrium one asks for.

# %%
for line in ratios.values():
    ratio = dict(zip(tolerances, line, strict=True))
    assert ratio[1e-1] == 1.0 and 1.1 <= ratio[1e-2] <= 1.5
    assert 1.7 <= ratio[1e-4] <= 2.5 and ratio[1e-5] > 1.9
between = [abs(old / new - 1) for old, new in zip(*ratios.values(), strict=True)]
assert max(between) < 0.25 and even > 1
assert points[1].by_evaluations.kind in ("at", "from the start")

# %% [markdown]
# ## 9. Watch a belief settle
#
# How exact an equilibrium should one ask for? The readout can be asked at every evaluation what it
# takes the digit for: the answer of a network of so many layers. Here are the six of the 360 test
# digits that change it latest, by forward iteration. The bluer, the surer; red is not yet the final
# answer.


# %%
@torch.no_grad()
def beliefs_of(method, evaluations=24):
    """What the network takes each test digit for, had the solve ended at each evaluation."""
    x, seen = network.encode(digits.test_images), []
    run = solve(lambda z: network.cell(z, x), torch.zeros_like(x), method, rtol=1e-9,
                max_iter=evaluations, on_step=lambda step: seen.append(
                    network.readout(step.z()).softmax(dim=1)))  # fmt: skip
    return torch.stack(seen), run.history.relative_residual.median(dim=1).values


by_layers, residual = beliefs_of(Picard())  # (24, 360, 10), (24,)
by_anderson, anderson_residual = beliefs_of(Anderson())
predicted = by_layers.argmax(dim=2)  # (24, 360)
changed = (predicted != predicted[-1]).int()
last_change = torch.where(changed.any(dim=0), 24 - changed.flip(0).argmax(dim=0), 0)  # (360,)
chosen = last_change.argsort(descending=True)[:6]
shown = [1, 2, 3, 4, 6, 8, 12, 16, 24]
rows = torch.tensor(shown) - 1
drawing_deq.beliefs(
    digits.test_images[chosen, 0], shown, predicted[rows][:, chosen],
    by_layers.amax(dim=2)[rows][:, chosen],
)  # fmt: skip

# %%
right = {
    name: (found.argmax(dim=2) == digits.test_labels).double().mean(dim=1).tolist()
    for name, found in {"forward iteration": by_layers, "Anderson": by_anderson}.items()
}
residuals = {"forward iteration": residual.tolist(), "Anderson": anderson_residual.tolist()}
drawing_deq.settling(right, residuals)

# %% [markdown]
# These six are exceptions. More than 95 % of all digits get their final answer within six
# evaluations, where the median residual is still about 0.1. After 24, both methods read (nearly)
# all digits alike, and on the way there Anderson's accuracy is never more than six points above or
# below that of forward iteration, though its residual falls faster. **For the answer alone,
# Anderson buys nothing here.** It buys exact equilibria: gradients that point the right way, and
# results that do not depend on where the solve was stopped.

# %%
settled = (last_change < 6).double().mean()
assert (last_change[chosen] > 6).all() and settled > 0.95 and 0.05 < residual[5] < 0.2
same = (by_layers[-1].argmax(dim=1) == by_anderson[-1].argmax(dim=1)).double().mean()
gaps = [abs(a - b) for a, b in zip(*right.values(), strict=True)]
assert same > 0.99 and max(gaps) < 0.06 and right["Anderson"][5] > 0.93
assert anderson_residual[-1] < residual[-1] / 3

# %% [markdown]
# ## 10. Born unstable, and a remedy
#
# A spectral radius above 1 is not forbidden. Here a loop is born too strong: $W$ is 2.5 times what
# torch draws. It learns the gray stairs, a task that hardly needs a loop. Adam makes it fit, and
# leaves the loop as strong as it was, because the loss does not see it.
#
# The remedy of Bai, Koltun and Kolter (2021) is to let the loss see it: add a multiple of
# $\lVert J \rVert_F^2 / n$, the sum of all squared elements of $J$ over the size of the state. No
# Jacobian is needed for that. For a random vector $e$ of independent elements with variance 1,
# $\lVert J^T e \rVert^2$ *is* $\lVert J \rVert_F^2$ on average (Hutchinson 1990), and it costs one
# backward step through one layer.

# %%
x = torch.linspace(-1, 1, 32)[:, None]
stairs = (3 * x).round() / 3


def learn(penalty, steps=60):
    """A loop born too strong, trained on the stairs; the layer and its fit."""
    torch.manual_seed(SEED)
    cell, head = DenseCell(inputs=1, width=32), torch.nn.Linear(32, 1)
    cell.state.weight.data *= 2.5
    layer = DEQ(cell, rtol=1e-2, max_iter=60)
    optimizer = torch.optim.Adam([*cell.parameters(), *head.parameters()], lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        z = layer(x)
        loss = (head(z) - stairs).square().mean()
        if penalty:
            loss = loss + penalty * jacobian_penalty(lambda z: cell(z, x), z).mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        fit = head(layer(x))
        runs = [
            solve(lambda z: cell(z, x), torch.zeros(32, 32), method, rtol=1e-4, max_iter=300)
            for method in (Picard(), Anderson())
        ]
    return fit, layer.spectrum(x).spectral_radius, runs


learned = {"without penalty": learn(0.0), "with penalty": learn(0.3)}
drawing_deq.softened(
    x[:, 0], stairs[:, 0], {name: fit[:, 0] for name, (fit, _, _) in learned.items()},
    {name: radii for name, (_, radii, _) in learned.items()},
)  # fmt: skip

# %% [markdown]
# Both fit the stairs as well as a smooth curve can. Without the penalty the spectral radius stays
# above 1 for some inputs; forward iteration arrives for fewer than half of the 32 within 300
# evaluations, Anderson for all. With it the radius is about 0.5, and forward iteration arrives
# everywhere within 50.
#
# Other remedies, all in `andersonn_core.deq`: torch's own weight and spectral norm, dropout with
# one mask per solve (`VariationalDropout`), losses on the states on the way (`correction_loss`).

# %%
free, softer = learned.values()
free_error, soft_error = ((fit - stairs).square().mean() for fit, _, _ in (free, softer))
assert free_error < 0.01 and soft_error < 0.013
assert free[1].max() > 1 > softer[1].max() and 0.4 < softer[1].median() < 0.65
(free_forward, free_anderson), (soft_forward, soft_anderson) = free[2], softer[2]
assert free_forward.converged.sum() < 16 and free_anderson.converged.all()
assert soft_forward.converged.all() and soft_forward.num_evals <= 50

# %% [markdown]
# ## 11. Exercise: how the answer moves
#
# Section 3 sent a gradient *backward* through infinitely many layers. Now go *forward*: if the
# input $x$ moves along $w$, how does the equilibrium move? From the first equation there, the
# tangent $t$ satisfies
#
# $$t = J\, t + \frac{\partial f}{\partial x}\, w .$$
#
# You get the layer `f(z, x)`, its equilibrium `z`, the input `x` and the direction `w`; return `t`.
# (`jvp(g, point, direction)` returns `g(point)` and its derivative along the direction. One of the
# layers of the check expands.)


# %%
def my_tangent(f, z, x, w):
    _, pushed = jvp(lambda x: f(z, x), x, w)
    return pushed  # (df/dx) w: what else moves?


# %%
from solutions.equilibrium_03 import check_tangent

print(check_tangent(my_tangent))

# %% jupyter={"source_hidden": true} tags=["hide-input"]
from solutions.equilibrium_03 import solution_tangent

assert check_tangent(solution_tangent).passed
drawing.reveal("Show a solution", solution_tangent)

# %% [markdown]
# ## 12. Exercise: a penalty that is felt
#
# Write the penalty of section 10 yourself. You get the map `f(z)`, the point `z` and a random `e`,
# a sample in each row; return $\lVert J^T e \rVert^2 / n$ for each sample. It is to be *trained*
# with, so its own gradient must reach the weights inside `f`.


# %%
def my_penalty(f, z, e):
    z = z.detach().requires_grad_()
    (product,) = torch.autograd.grad(f(z), z, e)
    return product.square().sum(dim=1) / z.shape[1]  # the right numbers: what is missing?


# %%
from solutions.equilibrium_03 import check_penalty

print(check_penalty(my_penalty))

# %% jupyter={"source_hidden": true} tags=["hide-input"]
from solutions.equilibrium_03 import solution_penalty

assert check_penalty(solution_penalty).passed
drawing.reveal("Show a solution", solution_penalty)

# %% [markdown]
# ## References
#
# * S. Bai, J. Z. Kolter and V. Koltun (2019), Deep equilibrium models, NeurIPS 32.
# * S. Bai, V. Koltun and J. Z. Kolter (2021), Stabilizing equilibrium models by Jacobian
#   regularization, ICML.
# * S. W. Fung, H. Heaton, Q. Li, D. McKenzie, S. Osher and W. Yin (2022), JFB: Jacobian-free
#   backpropagation for implicit networks, AAAI 36.
# * Z. Geng, X.-Y. Zhang, S. Bai, Y. Wang and Z. Lin (2021), On training implicit models, NeurIPS
#   34.
# * M. F. Hutchinson (1990), A stochastic estimator of the trace of the influence matrix for
#   Laplacian smoothing splines, Commun. Stat. Simul. Comput. 19.
