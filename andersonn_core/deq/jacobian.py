"""A penalty that keeps a deep equilibrium model easy to solve while it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from andersonn_core.deq.products import JacobianProducts
from andersonn_core.specs import Spec, knob


class PenaltyKnobs(Spec):
    """How the trace of J J^T is sampled."""

    title: ClassVar[str] = "jacobian_penalty"

    samples: int = knob(
        1, "Random probes averaged; the variance falls as 1 / samples.",
        minimum=1, maximum=1000, typical=(1, 8),
    )  # fmt: skip
    distribution: Literal["gaussian", "rademacher"] = knob(
        "gaussian",
        "Of the probes' elements; rademacher (+1 or -1) has the smaller variance and is exact "
        "where the rows of J are perpendicular.",
    )


def jacobian_penalty(
    f: Callable[[Any], Any],
    z: Any,  # (B, ...) tensor, or a tuple or dict of them
    *,
    samples: int = 1,
    distribution: Literal["gaussian", "rademacher"] = "gaussian",
    generator: torch.Generator | None = None,
    **misspelled: Any,
) -> Tensor:  # (B,)
    """An unbiased estimate of ||J||_F^2 / n for each sample, J = df/dz at z, to be minimized.

    ||J||_F^2 = E ||J^T e||^2 over probes e with E e e^T = I (Hutchinson 1990; as a penalty: Bai,
    Koltun and Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization", ICML 2021).
    Gradients reach whatever f holds, its parameters and its input; z counts as a constant.
    It costs one evaluation of f, and one product with J^T per probe.

    Without a generator the probes come from torch's global one. Raises KnobError for impossible
    knobs; ValueError if f changes the shape, dtype or device of z, or has no derivative.
    """
    knobs = PenaltyKnobs(samples=samples, distribution=distribution, **misspelled)
    products = JacobianProducts(f, z)
    taped = torch.is_grad_enabled()
    total = sum(
        products.transposed(probe, create_graph=taped).square().sum(1)
        for probe in _probes(products, knobs, generator)
    )
    return torch.as_tensor(total) / (knobs.samples * products.layout.elements)


def _probes(
    products: JacobianProducts, knobs: PenaltyKnobs, generator: torch.Generator | None
) -> list[Tensor]:  # (B, n) each
    layout = products.layout
    device = layout.device if generator is None else generator.device
    shape = (knobs.samples, layout.batch, layout.elements)
    probes = torch.randn(shape, generator=generator, device=device, dtype=layout.working_dtype)
    if knobs.distribution == "rademacher":
        probes = torch.where(probes < 0, -1.0, 1.0).to(probes.dtype)
    return list(probes.to(layout.device))
