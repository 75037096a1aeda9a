"""The page's controls, generated from knobs that problems, methods and the driver declare once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import param

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec
from andersonn_core.driver import SolveKnobs
from andersonn_core.problems import ProblemSpec
from andersonn_core.specs import Knob, KnobError, Spec
from lab.also import ALSO, NOTHING, anderson_knobs, third
from lab.knobs import FIXED, KNOBS, devices, knobs_of
from lab.presets import OPENING, PRESETS
from lab.theme import LABELS

MAX_BYTES = 512 * 2**20  # of one solve's workspace and history: what a page grants one visitor
ROW_BYTES = 8192  # one history row's own objects
SAMPLE_BYTES = 80  # of one sample in one history row
LARGEST = 8  # batch size times problem size may be so many times the largest typical product
SIZES = ("batch_size", "size", "window", "max_iter", "dtype", "also")  # they make the product
MOST_LISTED = 12  # names that a sentence lists
HISTORY_KNOBS = (
    "regularization", "restart", "kept", "period", "delay", "least_squares", "history", "fallback",
    "max_condition", "filtering", "max_growth", "max_weights",
)  # fmt: skip
GPU_KNOBS = "device", "history"  # other machines' solves are the same whatever they say
NO_CHANCE = Anderson.knobs()["randomize"].default
KEEPING = ("deflated", "auto")  # values of restart that keep slow directions
CHOICES = {"nothing": NOTHING} | {LABELS[name]: name for name in ALSO}


class _Guard(param.Parameter):
    """A parameter whose values are judged by the knob itself, with the knob's own sentence."""

    def _validate(self, val: Any) -> None:
        if isinstance(self.owner, param.Parameterized):  # the class itself only declares
            self.owner.judge(self.name, val)
        else:
            super()._validate(val)


class _Integer(_Guard, param.Integer):
    """An integer knob."""


class _Number(_Guard, param.Number):
    """A number knob."""


class _Switch(_Guard, param.Boolean):
    """A knob that is on or off."""


class _Choice(_Guard, param.Selector):
    """A knob that is one of several words."""


def _label(knob: Knob) -> str:
    words = knob.name.strip("_").replace("_", " ")
    return words if knob.symbol in ("", words) else f"{words} {knob.symbol}"


def _parameter(knob: Knob) -> param.Parameter:
    common: dict[str, Any] = dict(default=knob.default, doc=knob.doc, label=_label(knob))
    if knob.name == "device":
        return _Choice(objects=devices(), **common)
    if knob.kind == "choice":
        return _Choice(objects=list(knob.choices), **common)
    if knob.kind == "switch":
        return _Switch(**common)
    kind = _Integer if knob.kind == "integer" else _Number
    return kind(allow_None=knob.optional, **_ranges(knob), **common)


def _ranges(knob: Knob) -> dict[str, Any]:
    """The valid range as hard bounds, the typical one as soft bounds."""
    return dict(
        bounds=(knob.minimum, knob.maximum),
        inclusive_bounds=(not knob.exclusive_minimum, True),
        softbounds=knob.typical,
    )


class Controls(param.Parameterized):
    """One parameter per knob; every state it can be in is a valid pair of solves.

    An assignment that is refused raises KnobError, leaves the state as it was and puts the sentence
    into `notice`: bounds on the server are the guard against whatever a client sends. `revision`
    counts accepted changes, one for each assignment and one for each `apply`: watch only that.
    """

    problem = _Choice(
        default=OPENING["problem"], objects={spec.label: key for key, spec in PROBLEMS.items()},
        doc="The fixed-point map that is iterated.",
    )  # fmt: skip
    also = _Choice(
        default=NOTHING, objects=CHOICES,
        doc="One more run beside Anderson's, with its window and mixing where there are such.",
    )  # fmt: skip
    notice = param.String(
        default="", doc="Why the last value was refused; empty after an accepted one."
    )
    revision = param.Integer(default=0, doc="Counts accepted changes.")

    def __init__(self) -> None:
        super().__init__()
        self._depth, self._trusting, self._changed = 0, False, False
        self._adopt({})
        self.param.watch(self._count, ["problem", "also", *KNOBS])
        self.apply(OPENING)
        self.revision = 0

    # -- what may be set --------------------------------------------------------------------------

    def judge(self, name: str, value: Any) -> None:
        """Raise KnobError, and note its sentence, if this value can't be set now."""
        try:
            self._judge_alone(name, value)
            if not self._trusting and name in SIZES:
                self._judge_product({name: value})
        except KnobError as error:
            self.notice = str(error)
            raise
        if self.notice:
            self.notice = ""

    def _judge_alone(self, name: str, value: Any) -> None:
        if name == "problem":
            if not isinstance(value, str) or value not in PROBLEMS:
                raise KnobError(f"There is no problem {value!r}: {closest(value, PROBLEMS)}")
        elif name == "also":
            words = list(CHOICES.values())
            if value not in words:
                remedy = f"it must be one of {', '.join(words)}."
                raise KnobError(f"also = {value!r} is not allowed: {remedy}")
        else:
            self._judge_knob(name, value)

    def _judge_knob(self, name: str, value: Any) -> None:
        owner = self._owner(name)
        try:
            owner(**{name: value})
        except KnobError as error:  # on a page a knob has no class
            title = owner.title or owner.__name__
            raise KnobError(str(error).removeprefix(f"{title}.")) from None
        if name == "device" and value not in devices():
            raise KnobError(
                f"device = {value!r} is not available: this machine has {', '.join(devices())}."
            )
        if name == "dtype" and value not in PROBLEMS[self.problem].dtypes:
            words = ", ".join(PROBLEMS[self.problem].dtypes)
            raise KnobError(f"dtype = {value!r} does not suit this problem: it takes {words}.")

    def _owner(self, name: str) -> type[Spec]:
        """The spec that declares a knob now; another problem's where the present one lacks it."""
        for spec in (PROBLEMS[self.problem], Anderson, SolveKnobs, *PROBLEMS.values()):
            if name in spec.knobs():
                return spec
        raise KnobError(f"There is no knob '{name}': {closest(name, self._names())}")

    def _judge_product(self, changes: Mapping[str, Any]) -> None:
        """Refuse sizes that are fine alone but not together, before anything is built."""
        judge_size(self._specs(changes).values())

    # -- setting ----------------------------------------------------------------------------------

    def apply(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Set many at once, the problem first; returns the refused ones, each with a sentence.

        Knobs of the problem that are not named keep their value if the old problem declares them
        alike and take the new problem's default otherwise; a refused value changes nothing.
        """
        refused: dict[str, str] = {}
        with self._transaction():
            if "problem" in values:
                self._try(refused, {"problem": values["problem"]})
            accepted = self._acceptable(values, refused)
            try:
                self._judge_product(accepted)
            except KnobError as error:
                for name in [name for name in SIZES if name in accepted]:
                    del accepted[name]
                    refused[name] = str(error)
            self._trusted(accepted)
        self.notice = "\n".join(dict.fromkeys(refused.values()))
        return refused

    def preset(self, name: str) -> None:
        """The values of a preset, the rest as declared."""
        with self._transaction():
            self.reset(PRESETS[name]["problem"])
            self.apply(PRESETS[name])

    def reset(self, problem: str | None = None) -> None:
        """Every knob as declared, for this or another problem; nothing beside Anderson."""
        with self._transaction():
            if problem is not None:
                self.problem = problem
            self._trusted(self.defaults())

    def _acceptable(self, values: Mapping[str, Any], refused: dict[str, str]) -> dict[str, Any]:
        accepted = {}
        for name, value in values.items():
            if name == "problem":
                continue
            try:
                self._judge_alone(name, value)
                if name not in self._usable():
                    raise KnobError(self.unavailable()[name])
                accepted[name] = value
            except KnobError as error:
                refused[name] = str(error)
        return accepted

    def _try(self, refused: dict[str, str], values: Mapping[str, Any]) -> None:
        try:
            self.param.update(**values)
        except KnobError as error:
            refused |= dict.fromkeys(values, str(error))

    def _trusted(self, values: Mapping[str, Any]) -> None:
        """Set values whose product was judged together."""
        self._trusting = True
        try:
            self.param.update(**values)
        finally:
            self._trusting = False

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Whatever changes inside counts as one revision."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._changed and not self._depth:
                self._changed = False
                self.revision += 1

    def _count(self, *_events: param.parameterized.Event) -> None:
        self._changed = True
        with self._transaction():
            pass

    @param.depends("problem", watch=True)
    def _follow_problem(self) -> None:
        """Give knobs this problem's ranges and, where it declares them otherwise, its defaults."""
        knobs = PROBLEMS[self.problem].knobs()
        alike = [name for name, knob in knobs.items() if self._declared.get(name) == knob]
        self._depth += 1  # the problem's own change counts next, and for all of these
        try:
            self._adopt({name: getattr(self, name) for name in alike})
        finally:
            self._depth -= 1

    def _adopt(self, kept: Mapping[str, Any]) -> None:
        own = PROBLEMS[self.problem]
        self._declared = own.knobs()
        for name, knob in self._declared.items():
            parameter = self.param[name]
            parameter.default, parameter.doc, parameter.label = knob.default, knob.doc, _label(knob)
            if knob.kind in ("integer", "number"):
                for slot, value in _ranges(knob).items():
                    setattr(parameter, slot, value)
        self.param["dtype"].objects = list(own.dtypes)
        if kept.get("dtype") not in own.dtypes:
            kept = {name: value for name, value in kept.items() if name != "dtype"}
        values = {name: knob.default for name, knob in self._declared.items()}
        try:
            self._judge_product(values | dict(kept))
        except KnobError:
            kept = {}
        self._trusted(values | dict(kept))

    # -- what is set ------------------------------------------------------------------------------

    def specs(self) -> dict[str, SolveSpec]:
        """The solves that the controls describe: "picard", "anderson" and perhaps one of `ALSO`."""
        return self._specs({})

    def _specs(self, changes: Mapping[str, Any]) -> dict[str, SolveSpec]:
        values = {name: getattr(self, name) for name in self._usable()} | dict(changes)
        problem = _make(PROBLEMS[self.problem], values, PROBLEMS[self.problem].unused)
        anderson = _make(Anderson, values)
        methods = {"picard": Picard(), "anderson": anderson} | third(values["also"], anderson)
        driver = {name: values[name] for name in SolveKnobs.knobs() if name in values} | FIXED
        return {
            name: SolveSpec(problem=problem, method=method, **driver)
            for name, method in methods.items()
        }

    def values(self) -> dict[str, Any]:
        """The value of every control that the present problem can use, and of `also`."""
        return {name: getattr(self, name) for name in self._usable()}

    def defaults(self) -> dict[str, Any]:
        """What `values` would hold if nobody had touched a control."""
        knobs = knobs_of(self.problem)
        return {name: knobs[name].default if name in knobs else NOTHING for name in self._usable()}

    def knob(self, name: str) -> Knob:
        """The declaration of a knob, the present problem's where it has one."""
        return self._owner(name).knobs()[name]

    def unavailable(self) -> dict[str, str]:
        """Controls that have no effect now, each with the reason in words."""
        own = PROBLEMS[self.problem]
        absent = [name for name in KNOBS if name not in self._usable()]
        reasons = {name: f"{own.label} has no {_words(name)}." for name in absent} | own.unused
        if self.restart not in KEEPING:
            reasons["kept"] = f"Only restart = {' or '.join(KEEPING)} keeps slow directions."
        if self.also == "restart" and self.restart == "full":
            reasons["also"] = "Anderson itself restarts in full: one curve shows both."
        if self.randomize == NO_CHANCE:
            reasons["randomize_seed"] = "Nothing is drawn at random."
        if self.window == 0:
            reason = "A window of 0 is forward iteration: it keeps no history."
            reasons |= dict.fromkeys(HISTORY_KNOBS, reason)
        if len(devices()) == 1:
            reasons |= dict.fromkeys(GPU_KNOBS, "This machine has no GPU that PyTorch can use.")
        return reasons

    def _usable(self) -> list[str]:
        return ["also", *knobs_of(self.problem)]

    def _names(self) -> list[str]:
        return ["problem", "also", *KNOBS]


for _name, _knob in KNOBS.items():
    Controls.param.add_parameter(_name, _parameter(_knob))


def judge_size(specs: Collection[SolveSpec]) -> None:
    """Raise KnobError if solves of one problem are larger than what the page computes."""
    spec = next(iter(specs))
    typical = {name: knob.typical for name, knob in type(spec.problem).knobs().items()}
    sizes = [name for name in ("batch_size", "size") if name in typical]
    product, most = 1.0, float(LARGEST)
    for name in sizes:
        product *= getattr(spec.problem, name)
        most *= (typical[name] or (1, 1))[1]
    words = " and ".join(f"{name} = {getattr(spec.problem, name)}" for name in sizes)
    if product > most:
        raise KnobError(
            f"{words} make a product of {product:.3g}; this page computes up to {most:.3g}. "
            "Lower one of them."
        )
    needed = max(map(_solve_bytes, specs))
    if needed > MAX_BYTES:
        window = max(getattr(each.method, "window", 0) for each in specs)
        raise KnobError(
            f"{words}, window = {window} and max_iter = {spec.max_iter} would take "
            f"{needed / 2**20:.0f} MiB; this page grants {MAX_BYTES // 2**20} MiB. "
            "Lower one of them."
        )


def values_of(spec: SolveSpec) -> dict[str, Any]:
    """The control values that lead to one solve: the inverse of `specs` for one method."""
    own = PROBLEMS[spec.problem.name].unused
    problem = {name: value for name, value in spec.problem if name not in own}
    driver = {name: value for name, value in spec if name not in ("problem", "method", *FIXED)}
    shown = {"also": spec.method.name if spec.method.name in ALSO else NOTHING}
    method = anderson_knobs(spec.method)
    return {"problem": spec.problem.name, **problem, **method, **driver, **shown}


def _make(spec: type[Any], values: Mapping[str, Any], leave: Collection[str] = ()) -> Any:
    names = [name for name in spec.knobs() if name in values and name not in leave]
    return spec(**{name: values[name] for name in names})


def _solve_bytes(spec: SolveSpec) -> int:
    """An upper estimate of what one solve holds: vectors of the state's size and the history."""
    problem: ProblemSpec = spec.problem
    width = 8 if problem.dtype == "float64" else 4
    vectors = spec.method.memory_vectors(problem.num_elements) + 6
    state = vectors * problem.batch_size * problem.num_elements * width
    return state + spec.max_iter * (ROW_BYTES + SAMPLE_BYTES * problem.batch_size)


def closest(name: Any, names: Collection[str]) -> str:
    """The remedy for a misspelled name."""
    near = difflib.get_close_matches(str(name)[:60], list(names), n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there are {', '.join(names)}." if len(names) <= MOST_LISTED else "nothing is like it."


def _words(name: str) -> str:
    return name.strip("_").replace("_", " ")
