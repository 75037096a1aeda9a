"""TrainSpec: everything that a training depends on, as one record that can be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import torch
from pydantic import model_validator

from andersonn_core.data import DATASETS, ImageSet
from andersonn_core.deq import DEQ, GRADIENTS, EquilibriumKnobs
from andersonn_core.methods import METHODS
from andersonn_core.models import MODELS
from andersonn_core.problems.base import available_device
from andersonn_core.specs import KnobError, Spec, knob

if TYPE_CHECKING:
    from andersonn_core.training.control import Control
    from andersonn_core.training.events import TrainEvent
    from andersonn_core.training.result import TrainResult

    DataName: TypeAlias = str
    ModelName: TypeAlias = str
else:
    DataName, ModelName = Literal[tuple(DATASETS)], Literal[tuple(MODELS)]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class TrainSpec(EquilibriumKnobs):
    """A data set, a network, the knobs of its equilibrium and those of the optimizer.

    The same spec and seed give the same weights, bit for bit, with the same torch version, one
    thread and the same kind of processor; not so with a budget of `seconds`.
    """

    title: ClassVar[str] = "TrainSpec"

    data: DataName = knob("digits", "Data set, from DATASETS.")
    train_images: int | None = knob(
        None, "Training images that are used, the first so many; None: all of them.",
        minimum=1, maximum=10_000_000, typical=(100, 50_000), none="all",
    )  # fmt: skip
    test_images: int | None = knob(
        None, "Test images that are used, the first so many; None: all of them.",
        minimum=1, maximum=10_000_000, typical=(100, 10_000), none="all",
    )  # fmt: skip
    model: ModelName = knob("deq", "Network, from MODELS; only deq has an equilibrium.")
    optimizer: Literal["adam", "sgd"] = knob(
        "adam", "adam, or sgd: stochastic gradient descent with a momentum of 0.9."
    )
    learning_rate: float = knob(
        1e-3, "Largest step size of the optimizer.",
        minimum=0.0, maximum=10.0, exclusive_minimum=True, typical=(1e-4, 1e-1), log=True,
    )  # fmt: skip
    schedule: Literal["cosine", "constant"] = knob(
        "cosine", "Of the learning rate; cosine: down to 1e-6 at the end of the training."
    )
    batch_size: int = knob(
        64, "Images whose mean gradient makes one step.",
        minimum=1, maximum=65_536, typical=(16, 256), symbol="B",
    )  # fmt: skip
    epochs: int = knob(
        10, "Passes over the training images.", minimum=1, maximum=100_000, typical=(1, 50)
    )
    seconds: float | None = knob(
        None, "End after so many seconds of training, to which the schedule is stretched, instead "
        "of counting epochs; None: count them.",
        minimum=0.0, exclusive_minimum=True, typical=(10.0, 3600.0), none="no limit", unit="s",
    )  # fmt: skip
    penalty: float = knob(
        0.0, "Weight of the Jacobian penalty ||J||^2 / n in the loss.",
        minimum=0.0, maximum=1e6, typical=(0.0, 10.0),
    )  # fmt: skip
    patience: int | None = knob(
        None, "End after so many epochs without a better validation accuracy; None: never.",
        minimum=1, maximum=100_000, typical=(2, 20), none="never",
    )  # fmt: skip
    validation: float = knob(
        0.0, "Fraction of the training images that is split off to choose the best epoch by.",
        minimum=0.0, maximum=0.9, typical=(0.0, 0.3),
    )  # fmt: skip
    spectrum: int = knob(
        0, "Test images at whose equilibria the spectral radius is measured after each epoch.",
        minimum=0, maximum=10_000, typical=(0, 64), identity=False,
    )  # fmt: skip
    dtype: Literal["float32", "float64"] = knob("float32", "Floating-point type of the network.")
    device: str = knob("cpu", "Where it is trained: cpu, cuda, cuda:1, mps.", identity=False)
    seed: int = knob(
        0, "Seed of the weights, of the order of the images and of the split.",
        minimum=0, maximum=2**31 - 1, identity=False,
    )  # fmt: skip

    _tables: ClassVar[Mapping[str, Mapping[str, type[Spec]]]] = {
        "method": METHODS, "adjoint_method": METHODS, "gradient": GRADIENTS,
    }  # fmt: skip

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        self.gradient.check(self.method)
        if self.patience is not None and not self.validation:
            raise ValueError("patience needs a validation part: give validation=0.1, or so.")
        if self.model != "deq" and self.penalty:
            raise ValueError(f"penalty needs an equilibrium, which {self.model!r} has not.")
        return self

    @property
    def equilibrium_knobs(self) -> dict[str, Any]:
        """The part of the knobs that the layer has, by name."""
        return {name: getattr(self, name) for name in EquilibriumKnobs.model_fields}

    def layer(self, cell: Any) -> DEQ:
        """A layer around the cell with these knobs."""
        return DEQ(cell, **self.equilibrium_knobs)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch type that `dtype` names."""
        return DTYPES[self.dtype]

    @property
    def torch_device(self) -> torch.device:
        """The torch device that `device` names; raises KnobError if this machine lacks it."""
        return available_device(self.device)

    def load(self) -> ImageSet:
        """The images that the knobs name; raises DataError, which says what to do."""
        return self.part_of(DATASETS[self.data]())

    def part_of(self, images: ImageSet) -> ImageSet:
        """The first images of each part of a set, as many as the knobs say."""
        if images.name != self.data:
            raise KnobError(
                f"data = {self.data!r}, but the images given are {images.name!r}: change the knob, "
                "or give the others."
            )
        return images.subset(self.train_images, self.test_images)

    def run(
        self,
        on_event: Callable[[TrainEvent], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        *,
        control: Control | None = None,
        images: ImageSet | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
    ) -> TrainResult:
        """Train, and return what came out; see `Trainer` for the arguments and the errors."""
        from andersonn_core.training.trainer import Trainer  # which needs this class

        return Trainer(
            self, on_event, should_stop, control=control, images=images, folder=folder,
            resume=resume,
        ).run()  # fmt: skip
