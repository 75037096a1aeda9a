"""A network, its equilibrium layer and its optimizer: one step, timed part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andersonn_core.deq import DEQ, jacobian_penalty
from andersonn_core.models import Equilibrium, EquilibriumNetwork, Network, build_model
from andersonn_core.models.base import ImageShape
from andersonn_core.results import SolveResult, Status
from andersonn_core.timing import clock_for
from andersonn_core.training.events import Phases
from andersonn_core.training.failures import NotFiniteError
from andersonn_core.training.spec import TrainSpec

MOMENTUM = 0.9


@dataclass(frozen=True)
class Solved:
    """The numbers of one solve; of none, where the network or the gradient has no such solve."""

    evals: int = 0
    sample_evals: float = 0.0  # mean
    residual: float = float("nan")  # the largest
    unconverged: int = 0  # samples
    map_seconds: float = 0.0
    mixing_seconds: float = 0.0

    @classmethod
    def of(cls, result: SolveResult | None) -> Solved:
        """Read them off a result."""
        if result is None:
            return cls()
        return cls(
            evals=result.num_evals,
            sample_evals=float(result.sample_evals.double().mean()),
            residual=float(result.relative_residual.max()),
            unconverged=int((~result.converged).sum()),
            map_seconds=float(result.history.map_seconds.sum()),
            mixing_seconds=float(result.history.method_seconds.sum()),
        )


@dataclass(frozen=True)
class Learned:
    """What came of one step."""

    loss: float
    rate: float  # of learning
    predicted: Tensor  # (B,) classes, before the step
    gradient_norm: float
    forward: Solved
    adjoint: Solved
    phases: Phases
    seconds: float
    solve: SolveResult | None  # the forward one


class Learner:
    """What changes while a training runs, but for where it stands among its images."""

    def __init__(
        self,
        spec: TrainSpec,
        image_shape: ImageShape,
        should_stop: Callable[[], bool],
        equilibrium: Callable[[nn.Module], Equilibrium] | None = None,
    ) -> None:
        device = spec.torch_device
        network = build_model(spec.model, image_shape, spec.seed)
        self.network: Network = network.to(device, spec.torch_dtype)
        self.layer: DEQ | None = None  # stays None where equilibria are found otherwise
        if isinstance(self.network, EquilibriumNetwork):
            if equilibrium is None:
                self.layer = spec.layer(self.network.cell)
                self.layer.should_stop, self.layer.warns = should_stop, False
            self.network.solve_with(
                self.layer if equilibrium is None else equilibrium(self.network.cell)
            )
        self.optimizer = _optimizer(spec, self.network)
        self.probes = torch.Generator().manual_seed(spec.seed)  # of the Jacobian penalty
        self.clock = clock_for(device)

    def change(self, spec: TrainSpec) -> None:
        """Take the knobs of the equilibrium from this spec from now on."""
        if self.layer is not None:
            self.layer.change(**spec.equilibrium_knobs)

    def learn(
        self, images: Tensor, labels: Tensor, rate: float, penalty: float
    ) -> Learned | None:  # (B, C, H, W), (B,)
        """One step of the optimizer; None, and everything as before, if a solve was stopped.

        Raises NotFiniteError, the weights unchanged, for a loss or a gradient that is not finite.
        """
        before = [buffer.clone() for buffer in self.network.buffers()]
        probes = self.probes.get_state()
        learned = self._learn(images, labels, rate, penalty)
        if learned is None:
            for buffer, value in zip(self.network.buffers(), before, strict=True):
                buffer.copy_(value)
            self.probes.set_state(probes)
        return learned

    def _learn(
        self, images: Tensor, labels: Tensor, rate: float, penalty: float
    ) -> Learned | None:  # (B, C, H, W), (B,)
        self.network.train()
        self._forget()
        self.optimizer.zero_grad()
        marks = [self.clock.mark()]
        x = self.network.encode(images)
        marks.append(self.clock.mark())
        z = self.network.body(x)
        marks.append(self.clock.mark())
        forward = None if self.layer is None else self.layer.last_forward
        if _cancelled(forward):
            return None
        logits = self.network.readout(z)
        loss = cross_entropy(logits, labels)
        marks.append(self.clock.mark())
        total = loss + penalty * self._penalty(x, z) if penalty else loss
        _check_finite("the loss", float(total.detach()))
        marks.append(self.clock.mark())
        total.backward()
        marks.append(self.clock.mark())
        adjoint = None if self.layer is None else self.layer.last_adjoint
        if _cancelled(adjoint):
            return None
        norm = float(self._gradient_norm())
        _check_finite("the gradient", norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        marks.append(self.clock.mark())
        both = Solved.of(forward), Solved.of(adjoint)
        return Learned(
            loss=float(loss.detach()), rate=rate, predicted=logits.detach().argmax(1),
            gradient_norm=norm, forward=both[0], adjoint=both[1],
            phases=self._phases(marks, *both),
            seconds=self.clock.seconds(marks[0], marks[-1]), solve=forward,
        )  # fmt: skip

    def _forget(self) -> None:
        if self.layer is not None:
            self.layer.last_forward = self.layer.last_adjoint = None

    def _penalty(self, x: Tensor, z: Tensor) -> Tensor:  # (B, ...), (B, ...)
        assert isinstance(self.network, EquilibriumNetwork)
        cell = self.network.cell
        return jacobian_penalty(lambda z: cell(z, x), z.detach(), generator=self.probes).mean()

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _phases(self, marks: list[Any], forward: Solved, adjoint: Solved) -> Phases:
        encode, body, readout, penalty, backward, optimizer = (
            self.clock.seconds(*pair) for pair in pairwise(marks)
        )
        solved = forward.map_seconds + forward.mixing_seconds
        return Phases(
            encode=encode,
            forward_map=body if self.layer is None else forward.map_seconds,
            forward_mixing=forward.mixing_seconds,
            forward_rest=0.0 if self.layer is None else body - solved,
            readout=readout,
            penalty=penalty,
            adjoint_map=adjoint.map_seconds,
            adjoint_mixing=adjoint.mixing_seconds,
            backward_rest=backward - adjoint.map_seconds - adjoint.mixing_seconds,
            optimizer=optimizer,
        )

    # -- what a checkpoint holds ------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimizer, generator of probes and warm start, by name."""
        found = {f"weights.{name}": value for name, value in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                if value is not None:
                    found[f"optimizer.{name}.{key}"] = value
        if self.layer is not None and self.layer.warm.states is not None:
            found["warm.states"] = self.layer.warm.states
        return found | {"probes": self.probes.get_state()}

    def warm_start(self) -> dict[str, Any] | None:
        """What the layer has measured of its starts."""
        if self.layer is None:
            return None
        warm = self.layer.warm
        return {"evals": dict(warm.evals), "calls": dict(warm.calls), "used": warm.used}

    def restore(self, warm_start: dict[str, Any] | None, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `warm_start` and `tensors` gave."""
        self.network.load_state_dict(_below("weights.", tensors))
        for name, parameter in self.network.named_parameters():
            for key, value in _below(f"optimizer.{name}.", tensors).items():
                self.optimizer.state[parameter][key] = _laid_out_like(parameter, value)
        self.probes.set_state(tensors["probes"])
        if self.layer is not None and warm_start is not None:
            vars(self.layer.warm).update(warm_start, states=tensors.get("warm.states"))


def _optimizer(spec: TrainSpec, network: Network) -> torch.optim.Optimizer:
    parameters, rate = network.parameters(), spec.learning_rate
    if spec.optimizer == "adam":
        return torch.optim.Adam(parameters, rate, fused=True)
    return torch.optim.SGD(parameters, rate, momentum=MOMENTUM, fused=True)


def _cancelled(result: SolveResult | None) -> bool:
    return result is not None and bool((result.status == int(Status.CANCELLED)).any())


def _check_finite(what: str, value: float) -> None:
    if not abs(value) < float("inf"):  # NaN, too
        raise NotFiniteError(what)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment with its parameter's strides, on its device; other state as it is."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def in_parts(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows that cover `count`."""
    return (slice(start, start + size) for start in range(0, count, size))
