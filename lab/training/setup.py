"""What a visitor chooses for a training: knobs declared elsewhere, a regime, and two specs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from andersonn_core import GRADIENTS, Anderson, KnobError, Picard
from andersonn_core.deq.gradients import GradientSpec
from andersonn_core.methods import MethodSpec
from andersonn_core.specs import Knob
from andersonn_core.training import TrainSpec, regimes
from andersonn_core.words import residual_text

METHODS = ("anderson", "picard")  # in the order of their turns: the first point comes sooner
SPECTRUM = {"spectrum": 0}  # the page measures it itself, beside S and the crossover


@dataclass(frozen=True)
class Regime:
    """What both methods have in common: it decides what is compared."""

    label: str
    words: str
    fixed: Mapping[str, Any]  # knobs that it sets
    unused: Mapping[str, str]  # knobs that have no effect, each with the reason


_COUNTED = "Epochs are counted here, not seconds."
_CAP = regimes.REGIMES["cap"].knobs
_OFFERED: dict[str, tuple[str, Mapping[str, Any], Mapping[str, str]]] = {
    "tolerance": ("Both solve every batch to the same tolerance.", {}, {"seconds": _COUNTED}),
    "cap": (
        f"Both may evaluate the cell {_CAP['max_iter']} times, to a tolerance of "
        f"{residual_text(_CAP['rtol'])}; gradients as they fall.",
        _CAP,
        {
            "rtol": f"With equal cap the tolerance is {residual_text(_CAP['rtol'])}.",
            "max_iter": f"With equal cap there are {_CAP['max_iter']} evaluations.",
            "seconds": _COUNTED,
        },
    ),
    "time": (
        "Both train for the same seconds of computing.", {},
        {"epochs": "With equal time the seconds decide when it ends."},
    ),
}  # fmt: skip
REGIMES = {
    name: Regime(regimes.REGIMES[name].label, *offered) for name, offered in _OFFERED.items()
}

DEFAULTS = {
    "window": 5, "mixing": 1.0, "batch_size": 32, "learning_rate": 1e-3, "epochs": 3,
    "seconds": 60.0, "rtol": 1e-3, "max_iter": 200, "seed": 0,
}  # fmt: skip
MOST = {"batch_size": 256, "epochs": 100, "seconds": 1800.0, "max_iter": 1000, "window": 30}
LEAST = {"seconds": 1.0, "max_iter": 2}
LIVE = ("window", "mixing", "batch_size", "learning_rate", "rtol", "max_iter", "gradient")


def _knobs() -> dict[str, Knob]:
    """The knobs as they are declared, with the page's defaults."""
    declared = {name: Anderson.knobs()[name] for name in ("window", "mixing")}
    declared |= {name: TrainSpec.knobs()[name] for name in DEFAULTS if name not in declared}
    seconds = declared["seconds"]
    declared["seconds"] = dataclasses.replace(
        seconds, optional=False, typical=(10.0, 300.0), doc="Seconds of computing for each method."
    )
    return {
        name: dataclasses.replace(knob, default=DEFAULTS[name]) for name, knob in declared.items()
    }


KNOBS = _knobs()
CHOICES = {
    "regime": {regime.label: name for name, regime in REGIMES.items()},
    "gradient": {gradient.label: name for name, gradient in GRADIENTS.items()},
}


@dataclass(frozen=True)
class Setup:
    """The choices of one training; raises KnobError for those that it cannot have."""

    regime: str = "tolerance"
    gradient: str = "implicit"
    window: int | str = DEFAULTS["window"]
    mixing: float | str = DEFAULTS["mixing"]
    batch_size: int = DEFAULTS["batch_size"]
    learning_rate: float = DEFAULTS["learning_rate"]
    epochs: int = DEFAULTS["epochs"]
    seconds: float = DEFAULTS["seconds"]
    rtol: float = DEFAULTS["rtol"]
    max_iter: int = DEFAULTS["max_iter"]
    seed: int = DEFAULTS["seed"]

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices.values():
                raise KnobError(
                    f"{name} = {value!r} is not allowed: it must be one of "
                    f"{', '.join(choices.values())}."
                )
        self._build()
        for name, most in MOST.items():
            value = getattr(self, name)
            least = LEAST.get(name, value)
            if not isinstance(value, str) and not least <= value <= most:
                raise KnobError(
                    f"{name} = {value:g} is not allowed: it must be "
                    f"{least if value < least else 1:g} to {most:g} on this page; in Python "
                    "TrainSpec takes more."
                )

    def _build(self) -> None:
        try:
            self.specs()
        except KnobError as error:  # on a page a knob has no class
            text = str(error).removeprefix("TrainSpec.").removeprefix("Anderson.")
            raise KnobError(text) from None

    def replace(self, **changes: Any) -> Self:
        """The same with other choices; raises KnobError as the constructor does."""
        unknown = [name for name in changes if name not in FIELDS]
        if unknown:
            raise KnobError(f"There is no knob {unknown[0]!r}: there are {', '.join(FIELDS)}.")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All choices by name."""
        return asdict(self)

    @property
    def changed(self) -> dict[str, Any]:
        """The choices that are not the page's defaults."""
        return {name: value for name, value in self.to_dict().items() if value != FIELDS[name]}

    @property
    def unused(self) -> Mapping[str, str]:
        """Knobs without effect, each with the reason."""
        return REGIMES[self.regime].unused

    def effective(self, name: str) -> Any:
        """A knob's value as the training takes it."""
        return REGIMES[self.regime].fixed.get(name, getattr(self, name))

    def method(self, name: str) -> MethodSpec:
        """Forward iteration, or Anderson with window and mixing."""
        if name == "picard":
            return Picard()
        return Anderson(window=self.window, mixing=self.mixing)  # type: ignore[arg-type]

    def gradient_of(self, name: str) -> GradientSpec:
        """The gradient that was chosen, or the implicit one where it suits only Anderson."""
        gradient = GRADIENTS[self.gradient]()
        try:
            gradient.check(self.method(name))
        except KnobError:
            if name == "anderson":
                raise
            return GRADIENTS["implicit"]()
        return gradient

    def specs(self) -> dict[str, TrainSpec]:
        """Both trainings by method; they differ in nothing else."""
        return {name: self._spec(name) for name in METHODS}

    def _spec(self, name: str) -> TrainSpec:
        knobs = {
            knob: self.effective(knob) for knob in DEFAULTS if knob not in ("window", "mixing")
        }
        knobs["seconds"] = self.seconds if self.regime == "time" else None
        if not isinstance(self.seconds, int | float) or isinstance(self.seconds, bool):
            TrainSpec(seconds=self.seconds)  # which says what is wrong with it
        return TrainSpec(
            method=self.method(name), gradient=self.gradient_of(name), **knobs, **SPECTRUM
        )

    def live(self, name: str, now: TrainSpec) -> dict[str, Any]:
        """What `Control.change` takes for one method to go on from a spec with these choices."""
        mine = self.specs()[name]
        names = ("gradient", "batch_size", "learning_rate", "rtol", "max_iter")
        changes = {
            key: getattr(mine, key) for key in names if getattr(mine, key) != getattr(now, key)
        }
        own = ("window", "mixing") if name == "anderson" else ()
        old = {key: getattr(now.method, key) for key in own}
        return changes | {key: getattr(self, key) for key in own if getattr(self, key) != old[key]}

    def going_on(self, wanted: Setup) -> Setup:
        """These choices with what may change while a training runs taken from others."""
        return self.replace(**{name: getattr(wanted, name) for name in LIVE})


FIELDS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Setup)}
