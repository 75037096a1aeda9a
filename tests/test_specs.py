"""Knobs: declared once, refused with a remedy, hashed and written as JSON without loss."""

import json
import math
import subprocess
import sys
from typing import Literal

import pytest
import torch
from cases import SMALL

from andersonn_core import (
    METHODS,
    PROBLEMS,
    Anderson,
    Broyden,
    KnobError,
    Picard,
    SolveSpec,
    solve,
)
from andersonn_core.driver import SolveKnobs
from andersonn_core.specs import Knob, Spec, knob

SPECS = [SolveKnobs, *METHODS.values(), *PROBLEMS.values()]
KNOBS = [(spec, name) for spec in SPECS for name in spec.knobs()]
NUMERIC = [(s, n) for s, n in KNOBS if s.knobs()[n].kind in ("integer", "number")]


def ids(pair):
    return getattr(pair, "__name__", pair)


def refusal(spec, **knobs):
    """The message with which a spec refuses these knobs."""
    with pytest.raises(KnobError) as caught:
        spec(**knobs)
    return str(caught.value)


# declarations


@pytest.mark.parametrize(("spec", "name"), KNOBS, ids=ids)
def test_every_knob_has_one_sentence_and_a_default_inside_its_range(spec, name):
    declared = spec.knobs()[name]
    assert declared.doc.endswith(".")
    assert declared.kind in {"integer", "number", "switch", "choice", "text"}
    assert spec(**{name: declared.default}) == spec()
    if declared.kind in ("integer", "number") and declared.default is not None:
        assert declared.minimum <= declared.default <= (declared.maximum or math.inf)
        if declared.typical is not None:
            low, high = declared.typical
            assert declared.minimum <= low < high <= (declared.maximum or math.inf)


@pytest.mark.parametrize(("spec", "name"), NUMERIC, ids=ids)
def test_every_number_has_a_range_for_its_slider(spec, name):
    low, high = spec.knobs()[name].slider_range
    assert low < high
    if spec.knobs()[name].log:
        assert low > 0


def test_the_defaults_are_those_that_the_documentation_names():
    spec = Anderson()
    assert (spec.window, spec.mixing, spec.regularization) == (5, 1.0, None)
    assert (spec.restart, spec.period, spec.delay) == ("full", 1, 0)
    assert (spec.least_squares, spec.fallback) == ("gram", True)
    knobs = SolveKnobs()
    assert (knobs.rtol, knobs.atol, knobs.max_iter, knobs.batch_dims) == (1e-6, 0.0, 200, 1)
    assert (knobs.compact, knobs.profile) == (False, False)
    assert SolveSpec(problem=SMALL["tanh"]).method == Anderson()


@pytest.mark.parametrize(
    ("spec", "name", "text"),
    [
        (Anderson, "window", "0 to 100, or 'auto'"),
        (Anderson, "mixing", "above 0 to 2, or 'auto'"),
        (Anderson, "max_growth", "at least 1, or None"),
        (Anderson, "regularization", "0 to 1, or None"),
        (Anderson, "restart", "one of full, never, deflated, auto"),
        (Anderson, "fallback", "True or False"),
        (SolveKnobs, "atol", "at least 0"),
        (SolveSpec, "problem", "a spec"),
    ],
    ids=ids,
)
def test_the_allowed_values_are_said_in_words(spec, name, text):
    assert spec.knobs()[name].range_text == text


def test_the_tables_are_keyed_by_the_names_that_the_specs_carry():
    for table in (METHODS, PROBLEMS):
        assert all(key == spec.name and spec.label for key, spec in table.items())
    assert list(METHODS) == ["picard", "anderson", "auto", "short_recurrence", "idr", "broyden"]


def test_a_new_knob_needs_one_declaration():
    class Toy(Spec):
        name = "toy"
        size: int = knob(3, "How many.", minimum=1, maximum=9, typical=(2, 5), symbol="s")
        kind: Literal["a", "b"] = knob("a", "Which.")

    assert Toy.knobs()["size"] == Knob(
        "size", 3, "integer", "How many.", "s", minimum=1, maximum=9, typical=(2, 5)
    )
    assert Toy.knobs()["kind"].choices == ("a", "b")
    assert dict(Toy(size=4)) == {"size": 4, "kind": "a"}
    assert refusal(Toy, size=10) == (
        "Toy.size (s) = 10 is not allowed: it must be 1 to 9. Typical values are 2 to 5."
    )


# refusals


@pytest.mark.parametrize(
    ("spec", "wrong", "right"),
    [
        (Anderson, "windw", "window"),
        (Anderson, "mixin", "mixing"),
        (Anderson, "regularisation", "regularization"),
        (Anderson, "fall_back", "fallback"),
        (Broyden, "windows", "window"),
        (SolveKnobs, "max_iters", "max_iter"),
        (SolveKnobs, "rtoll", "rtol"),
        (PROBLEMS["affine"], "spectral_radios", "spectral_radius"),
    ],
    ids=ids,
)
def test_a_misspelled_knob_is_refused_with_the_closest_name(spec, wrong, right):
    message = refusal(spec, **{wrong: 1})
    assert (
        message == f"{spec.title or spec.__name__} has no knob '{wrong}': did you mean '{right}'?"
    )


def test_a_knob_that_resembles_none_is_refused_with_the_list():
    message = refusal(Picard, zzz=1)
    assert message == "Picard has no knob 'zzz': its knobs are mixing."


@pytest.mark.parametrize(("spec", "name"), NUMERIC, ids=ids)
def test_values_out_of_range_are_refused_with_name_value_and_range(spec, name):
    declared = spec.knobs()[name]
    step = 1 if declared.kind == "integer" else 0.5
    beyond = [declared.minimum - step]
    beyond += [declared.maximum + step] if declared.maximum is not None else []
    beyond += [declared.minimum] if declared.exclusive_minimum else []
    for value in beyond:
        value = int(value) if declared.kind == "integer" else float(value)
        message = refusal(spec, **{name: value})
        for part in (
            f"{spec.title or spec.__name__}.{name}",
            repr(value),
            declared.range_text,
            "must be",
        ):
            assert part in message
        assert message.endswith(".") and message.count(".") >= 2  # a remedy follows


@pytest.mark.parametrize(("spec", "name"), NUMERIC, ids=ids)
def test_what_is_no_number_is_refused_as_one(spec, name):
    for value in (True, False, "3", "", "nan", math.nan, math.inf, -math.inf, None, [3], 3j):
        if value is None and spec.knobs()[name].optional:
            continue
        message = refusal(spec, **{name: value})
        assert f"{spec.title or spec.__name__}.{name}" in message and repr(value) in message
        assert "Give an integer" in message or "Give a number" in message


@pytest.mark.parametrize(("spec", "name"), NUMERIC, ids=ids)
def test_integers_do_not_take_fractions_and_say_which_integer_is_near(spec, name):
    declared = spec.knobs()[name]
    if declared.kind == "integer":
        near = min(3, int(declared.maximum))
        assert f"Give an integer, such as {near}." in refusal(spec, **{name: 2.7})
        assert f"such as {int(declared.maximum)}." in refusal(spec, **{name: 1e15})
        refusal(spec, **{name: 3.0})


@pytest.mark.parametrize("value", [0, 1, "true", "True", None])
def test_switches_take_only_true_or_false(value):
    assert "True or False" in refusal(Anderson, fallback=value)


def test_a_misspelled_choice_is_refused_with_the_closest_one():
    message = refusal(Anderson, restart="ful")
    assert message.endswith("it must be one of full, never, deflated, auto. Did you mean 'full'?")
    assert "one of gram, qr, residuals" in refusal(Anderson, least_squares="cholesky")
    refusal(Anderson, restart=True)


def test_all_mistakes_are_told_at_once():
    message = refusal(Anderson, window=-1, mixing="1", colour=3)
    assert len(message.splitlines()) == 3
    assert "window" in message and "mixing" in message and "colour" in message


def test_a_refusal_is_a_value_error_and_a_type_error():
    assert issubclass(KnobError, ValueError) and issubclass(KnobError, TypeError)


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError):
        Anderson(5)


def test_a_solve_spec_needs_a_problem_and_says_so():
    message = refusal(SolveSpec)
    assert message.startswith("SolveSpec.problem is required")


@pytest.mark.parametrize("value", ["affine", Anderson(), 3, None, {"name": "affine"}], ids=repr)
def test_a_solve_spec_takes_only_a_problem_as_its_problem(value):
    assert "SolveSpec.problem" in refusal(SolveSpec, problem=value)


@pytest.mark.parametrize("value", ["anderson", SMALL["tanh"], Anderson], ids=repr)
def test_a_solve_spec_takes_only_a_method_as_its_method(value):
    assert "SolveSpec.method" in refusal(SolveSpec, problem=SMALL["tanh"], method=value)


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_specs_are_frozen(spec):
    instance = spec()
    name = next(iter(spec.knobs()))
    with pytest.raises((KnobError, ValueError, AttributeError)):
        setattr(instance, name, getattr(instance, name))
    assert hash(instance) == hash(spec())


# JSON and identity


def every_solve_spec():
    for problem in SMALL.values():
        for method in (Picard(mixing=0.5), Anderson(window=3, regularization=1e-9), Broyden()):
            yield SolveSpec(problem=problem, method=method, rtol=1e-4, compact=True)


def test_every_solve_spec_survives_json():
    for spec in every_solve_spec():
        again = SolveSpec.from_json(spec.to_json())
        assert again == spec
        assert again.spec_id == spec.spec_id
        assert again.to_json() == spec.to_json()


def test_json_holds_all_resolved_knobs_with_the_names_of_both_parts():
    record = json.loads(SolveSpec(problem=SMALL["tanh"]).to_json())
    assert record["problem"]["name"] == "tanh" and record["method"]["name"] == "anderson"
    assert set(record["method"]) == {"name", *Anderson.knobs()}
    assert set(record) == set(SolveSpec.knobs())
    assert record["method"]["regularization"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": {"name": "affin"}}, "unknown problem 'affin'"),
        ({"method": {"name": "newton"}}, "unknown method 'newton'"),
        ({"method": {"window": 5}}, "unknown method None"),
        ({"method": {"name": "anderson", "window": 500}}, "Anderson.window"),
        ({"method": {"name": "anderson", "windw": 5}}, "did you mean 'window'"),
        ({"rtol": "1e-3"}, "SolveSpec.rtol"),
        ({"rtol": True}, "SolveSpec.rtol"),
        ({"max_iters": 3}, "did you mean 'max_iter'"),
        ({"problem": "affine"}, "SolveSpec.problem"),
        ({"problem": None}, "SolveSpec.problem"),
    ],
)
def test_json_is_validated_as_the_constructor_is(change, message):
    record = SolveSpec(problem=SMALL["affine"]).to_dict() | change
    with pytest.raises(KnobError, match=message):
        SolveSpec.from_json(json.dumps(record))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"anderson"'])
def test_json_that_is_no_record_is_refused(text):
    for spec in (SolveSpec, Anderson):
        with pytest.raises(ValueError):  # KnobError and json.JSONDecodeError are ones
            spec.from_json(text)


def test_spec_id_depends_on_every_knob_but_device_and_seed():
    spec = SolveSpec(problem=SMALL["affine"])
    changes = {
        "rtol": 1e-3, "atol": 1e-3, "max_iter": 7, "batch_dims": 0, "compact": True,
        "problem.size": 21, "problem.dtype": "float64", "problem.spectrum": "disc",
        "method.window": 6, "method.mixing": 0.5, "method.regularization": 0.1,
        "method.restart": "never", "method.period": 2, "method.delay": 1,
        "method.least_squares": "qr", "method.fallback": False, "method": Picard(),
        "problem": SMALL["tanh"],
    }  # fmt: skip
    found = {spec.spec_id} | {spec.replace(**{k: v}).spec_id for k, v in changes.items()}
    assert len(found) == len(changes) + 1
    assert spec.replace(**{"problem.seed": 5, "problem.device": "cuda"}).spec_id == spec.spec_id


def test_spec_id_does_not_depend_on_how_a_number_or_the_call_is_written():
    one = SolveSpec(problem=SMALL["affine"], method=Anderson(mixing=1, regularization=0))
    two = SolveSpec(method=Anderson(regularization=0.0, mixing=1.0), problem=SMALL["affine"])
    assert one == two and one.spec_id == two.spec_id
    assert one.replace(atol=-0.0).spec_id == two.spec_id
    assert SolveSpec(problem=SMALL["affine"]).spec_id == one.replace(method=Anderson()).spec_id


def test_spec_id_is_the_same_in_another_process():
    spec = SolveSpec(problem=PROBLEMS["rotation"](angle=30.0), method=Broyden(window=3))
    code = (
        "from andersonn_core import *\n"
        "s = SolveSpec(problem=PROBLEMS['rotation'](angle=30.0), method=Broyden(window=3))\n"
        "print(s.spec_id)"
    )
    command = [sys.executable, "-c", code]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert seen == spec.spec_id
    assert len(seen) == 16 and int(seen, 16) >= 0


# copies


def test_replace_changes_some_knobs_and_reaches_into_specs():
    spec = SolveSpec(problem=SMALL["affine"])
    changed = spec.replace(**{"rtol": 1e-3, "method.window": 3, "problem.size": 10})
    assert (changed.rtol, changed.method.window, changed.problem.size) == (1e-3, 3, 10)
    assert (spec.rtol, spec.method.window, spec.problem.size) == (1e-6, 5, 20)
    assert spec.replace() == spec


def test_replace_of_a_part_and_of_its_knobs_go_together():
    spec = SolveSpec(problem=SMALL["affine"])
    changed = spec.replace(**{"method": Broyden(), "method.window": 3})
    assert changed.method == Broyden(window=3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("window", 3, "no knob 'window'"),
        ("method.windw", 3, "did you mean 'window'"),
        ("method.window", 101, "Anderson.window"),
        ("methd.window", 3, "no knob 'methd.window'"),
        ("rtol.window", 3, "no knob 'rtol.window'"),
        ("rtol", 2, "SolveSpec.rtol"),
    ],
)
def test_replace_validates_as_the_constructor_does(name, value, message):
    with pytest.raises(KnobError, match=message):
        SolveSpec(problem=SMALL["affine"]).replace(**{name: value})


def test_a_misspelled_keyword_of_solve_is_refused_with_the_closest_name():
    with pytest.raises(KnobError, match="solve has no knob 'rtoll': did you mean 'rtol'"):
        solve(lambda z: z, torch.zeros(1, 1), rtoll=1e-3)
