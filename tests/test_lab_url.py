"""The page's state as a link: complete, short, and safe against whatever a link holds."""

import contextlib
import io
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andersonn_core import IDR, METHODS, PROBLEMS, Anderson, Auto, Broyden, ShortRecurrence
from lab.also import ALSO
from lab.code import NAMES, as_python
from lab.controls import PRESETS, Controls
from lab.knobs import KNOBS
from lab.url import MOST_PINS, from_query, pins_from_query, to_query


def read(query: str) -> tuple[Controls, list[str]]:
    controls = Controls()
    return controls, from_query(query, controls)


def test_an_empty_link_is_the_opening_state():
    controls, notes = read("")
    assert notes == []
    assert controls.values() == Controls().values()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_as_declared_is_one_parameter(problem):
    controls = Controls()
    controls.reset(problem)
    assert to_query(controls) == f"problem={problem}"


@pytest.mark.parametrize("also", ALSO)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_and_pins_round_trip(preset, also):
    controls = Controls()
    controls.preset(preset)
    controls.apply({"also": also, "restart": "deflated"})
    pins = [*controls.specs().values()]
    controls.apply({"window": 3, "mixing": 0.1 + 0.2, "regularization": 1e-8, "fallback": False})
    pins += controls.specs().values()
    query = to_query(controls, pins)
    other, notes = read(query)
    assert notes == []
    assert other.specs() == controls.specs()
    assert pins_from_query(query) == (pins, [])
    assert f"also={also}" in query
    assert len(query) < 1100


@pytest.mark.parametrize(
    ("query", "also"),
    [
        ("problem=tanh&broyden=on", "broyden"),
        ("broyden=True&mixing=0.7", "broyden"),
        ("broyden=off", "none"),
        ("broyden=0", "none"),
        ("also=idr&broyden=1", "broyden"),
    ],
)
def test_links_from_when_broyden_had_a_switch_still_open(query, also):
    controls, notes = read(query)
    assert notes == []
    assert controls.also == also
    assert ("broyden" in controls.specs()) == (also == "broyden")
    assert "broyden=" not in to_query(controls)


def test_a_pinned_run_of_any_method_opens_or_is_refused_in_words():
    for name in METHODS:
        pins, notes = pins_from_query(f"pin={name};problem=tanh")
        assert [pin.method.name for pin in pins] == ([] if notes else [name])
    assert "no method 'restart'" in pins_from_query("pin=restart;problem=tanh")[1][0]


def test_pinned_runs_of_all_methods_that_the_page_shows_open():
    query = "&".join(
        ["pin=broyden;problem=tanh;window=3", "pin=idr;problem=tanh;window=60",
         "pin=short_recurrence;problem=tanh;mixing=0.5",
         "pin=anderson;problem=tanh;restart=auto;kept=2"]
    )  # fmt: skip
    pins, notes = pins_from_query(query)
    assert notes == []
    methods = [Broyden(window=3), IDR(shadow=50), ShortRecurrence(mixing=0.5)]
    methods.append(Anderson(restart="auto", kept=2))
    assert [pin.method for pin in pins] == methods


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_the_controls_hold_round_trips(data):
    controls = Controls()
    controls.reset(data.draw(st.sampled_from(list(PROBLEMS))))
    controls.also = data.draw(st.sampled_from(["none", *ALSO]))
    for name in data.draw(st.lists(st.sampled_from(list(KNOBS)), max_size=5)):
        knob = controls.knob(name)
        if knob.kind == "choice":
            value = data.draw(st.sampled_from(knob.choices))
        elif knob.kind == "switch":
            value = data.draw(st.booleans())
        elif knob.kind in ("integer", "number"):
            low, high = knob.slider_range or (0, 100)
            whole = knob.kind == "integer"
            value = data.draw(st.integers(int(low), int(high)) if whole else st.floats(low, high))
        else:
            continue
        controls.apply({name: value})
    other, notes = read(to_query(controls))
    assert notes == []
    assert other.values() == controls.values()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("window=999&mixing=0.7", "window (m) = 999"),
        ("window=abc&mixing=0.7", "'abc'"),
        ("window=5.5&mixing=0.7", "integer"),
        ("rtol=nan&mixing=0.7", "nan"),
        ("rtol=-1e400&mixing=0.7", "inf"),
        ("fallback=maybe&mixing=0.7", "'maybe'"),
        ("broyden=maybe&mixing=0.7", "'maybe'"),
        ("also=everything&mixing=0.7", "one of none, restart"),
        ("kept=0&mixing=0.7", "kept (k) = 0"),
        ("dtype=float16&mixing=0.7", "'float16'"),
        ("windwo=3&mixing=0.7", "did you mean 'window'"),
        ("problem=poison&mixing=0.7", "did you mean 'poisson'"),
        ("gain=2&mixing=0.7", "has no gain"),
        ("device=cuda:99&mixing=0.7", "not available"),
        ("window=3&window=4&mixing=0.7", "given twice"),
        ("batch_size=%00%ff&mixing=0.7", "batch_size"),
        ("=&mixing=0.7", "''"),
        ("profile=on&mixing=0.7", "'profile'"),
        ("__class__=1&mixing=0.7", "'__class__'"),
        ("name=x&mixing=0.7", "'name'"),
    ],
)
def test_a_bad_parameter_is_explained_and_the_rest_is_kept(query, words):
    controls, notes = read(query)
    assert words in " ".join(notes)
    assert len(notes) == 1
    assert controls.mixing == 0.7
    controls.specs()


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "%3Cb%3E", "&lt;b&gt;<b>"]
)
def test_html_is_never_reflected(evil):
    for query in (f"window={evil}", f"{evil}=3", f"problem={evil}", f"pin={evil}",
                  f"pin=anderson;problem=tanh;dtype={evil}", f"fallback={evil}",
                  f"also={evil}", f"broyden={evil}"):  # fmt: skip
        _, notes = read(query)
        notes += pins_from_query(query)[1]
        assert notes
        assert not any("<" in note or ">" in note for note in notes)
        assert all(len(note) < 500 for note in notes)


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_no_text_breaks_the_page(text):
    for query in (text, f"window={text}", f"pin=anderson;problem=tanh;size={text}"):
        controls, notes = read(query)
        controls.specs()
        assert not any("<" in note or "\n<" in note for note in notes + pins_from_query(query)[1])


def test_endless_links_are_not_read():
    assert "longer" in read("window=" + "1" * 10_000)[1][0]
    assert "more than" in read("&".join(["a=1"] * 200))[1][0]


def test_pins_pass_the_same_guards():
    query = "&".join(
        ["pin=anderson;problem=tanh;window=3",
         "pin=anderson;problem=tanh;size=4096;batch_size=4096", "pin=newton;problem=tanh",
         "pin=picard", "pin=picard;problem=poisson;sieze=3"]
    )  # fmt: skip
    pins, notes = pins_from_query(query)
    assert [pin.method.window for pin in pins] == [3]
    numbers = [note.split(" is left out")[0] for note in notes]
    assert numbers == [f"Pinned run {number}" for number in (2, 3, 4, 5)]
    pins, notes = pins_from_query("&".join(["pin=picard;problem=tanh"] * (MOST_PINS + 2)))
    assert len(pins) == MOST_PINS and len(notes) == 1


def test_parameters_of_the_page_are_left_alone():
    controls = Controls()
    assert from_query("theme=dark&window=2", controls, known=("theme",)) == []
    assert controls.window == 2


def compared(also):
    """The specs of a page that shows a third run, too."""
    controls = Controls()
    controls.reset("tanh")
    controls.apply({"size": 20, "batch_size": 3, "seed": 7, "window": 3, "regularization": 1e-8})
    controls.apply({"also": also, "restart": "auto"})
    return controls.specs()


RUN_ALL = """
import contextlib, io, json, sys
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {"__name__": "__main__"})
    print(json.dumps(printed.getvalue().splitlines()))
"""


@pytest.fixture(scope="module")
def copied():
    """What the copied code of each third run prints, in a process that imports nothing else."""
    codes = json.dumps([as_python(compared(also)) for also in ALSO])
    command = [sys.executable, "-c", RUN_ALL]
    ran = subprocess.run(
        command, input=codes, capture_output=True, text=True, check=True, timeout=120
    )
    return dict(zip(ALSO, map(json.loads, ran.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("also", ALSO)
def test_the_copied_code_reproduces_counts_and_residuals(also, copied):
    specs, lines = compared(also), copied[also]
    for (name, spec), line in zip(specs.items(), lines, strict=False):
        if isinstance(spec.method, Auto):  # it decides by measured seconds
            assert line.startswith(f"{NAMES[name]} ")
            continue
        result = spec.run()
        residuals = result.relative_residual.tolist()
        numbers = f"{result.num_evals} {result.sample_evals.tolist()} {residuals}"
        assert line.split(" ", 1)[1] == numbers
    assert len(lines) == 4  # three methods and the crossover's sentence


@pytest.mark.parametrize("preset", ["forward wins", "watch it diverge"])
def test_the_copied_code_of_a_preset_runs(preset):
    controls = Controls()
    controls.preset(preset)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(as_python(controls.specs()), preset, "exec"), {})
    assert printed.getvalue().startswith("forward ")


def test_the_copied_code_of_pins_on_different_problems_names_each():
    controls = Controls()
    controls.reset("tanh")
    forward = controls.specs()["picard"]
    controls.reset("newton")
    code = as_python({"picard": forward, "anderson": controls.specs()["anderson"]})
    assert 'PROBLEMS["tanh"]' in code and 'PROBLEMS["newton"]' in code
    compile(code, "pins", "exec")
