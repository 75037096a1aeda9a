"""The knobs of every family of problems: declared, bounded, built at their ends, serialized."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from cases import SMALL

from andersonn_core.memory import available_bytes, check_fits
from andersonn_core.problems import PROBLEMS, Affine
from andersonn_core.specs import Knob, KnobError, Spec

LARGEST_BUILT = {"size": 64, "batch_size": 8}  # caps for the test of extreme knobs


def ends(knob: Knob) -> list[Any]:
    """The two ends of a knob's valid range, sizes capped, or all of its choices."""
    if knob.kind not in ("integer", "number"):
        return list(knob.choices)
    low = knob.typical[0] if knob.exclusive_minimum else knob.minimum
    high = min(knob.maximum, LARGEST_BUILT.get(knob.name, math.inf))
    return [int(end) if knob.kind == "integer" else end for end in (low, high)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_knob_has_a_default_and_says_what_it_does(name):
    family = PROBLEMS[name]
    for knob in family.knobs().values():
        assert knob.default is not None
        assert knob.doc.endswith(".")
        low, high = knob.slider_range or (0, 0)
        assert knob.minimum is None or low >= knob.minimum
        assert knob.maximum is None or high <= knob.maximum
    for reason in family.unused.values():
        assert reason.endswith(".")
    assert "size" in family.knobs() or "size" in family.unused


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_knob_builds_at_both_ends_of_its_range(name):
    knobs = PROBLEMS[name].knobs().values()
    for spec in [SMALL[name].replace(**{knob.name: end}) for knob in knobs for end in ends(knob)]:
        problem = spec.build()
        assert problem.f(problem.z0).shape == problem.z0.shape, spec
        if problem.z_star is not None:
            assert problem.z_star.isfinite().all(), spec


@pytest.mark.parametrize("name", PROBLEMS)
def test_values_beyond_a_range_are_refused_by_name(name):
    for knob in PROBLEMS[name].knobs().values():
        if knob.kind not in ("integer", "number"):
            continue
        step = 1 if knob.kind == "integer" else 0.5
        beyond = [knob.minimum - step, knob.maximum + step]
        for value in beyond:
            value = int(value) if knob.kind == "integer" else value
            with pytest.raises(KnobError, match=knob.name):
                SMALL[name].replace(**{knob.name: value})


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "digits_deq"])
def test_sizes_that_cannot_fit_are_refused_before_anything_is_allocated(name, monkeypatch):
    monkeypatch.setattr("andersonn_core.memory.available_bytes", lambda device: 2**20)
    largest = int(PROBLEMS[name].knobs()["size"].maximum)
    spec = SMALL[name].replace(size=largest, batch_size=4096)
    with pytest.raises(KnobError) as caught:
        spec.build()
    for part in (f"size = {largest}", "batch_size = 4096", "GiB", "cpu", "Lower"):
        assert part in str(caught.value)


def test_the_memory_check_reads_this_machine():
    cpu = torch.device("cpu")
    available = available_bytes(cpu)
    assert available is None or available > 2**20
    check_fits(1, cpu, "one byte")
    if available is not None:
        with pytest.raises(KnobError, match="a galaxy would take"):
            check_fits(2**80, cpu, "a galaxy")


def test_an_unknown_device_is_refused_with_the_list_of_those_there_are():
    with pytest.raises(KnobError, match="this machine has cpu"):
        Affine(device="tpu").build()


@pytest.mark.parametrize("name", PROBLEMS)
def test_specs_survive_json(name):
    spec = SMALL[name]
    record = json.loads(spec.to_json())
    assert record["name"] == name
    again = PROBLEMS[name].from_json(spec.to_json())
    assert again == spec and again.spec_id == spec.spec_id


@pytest.mark.parametrize("name", PROBLEMS)
def test_spec_id_ignores_device_and_seed_but_not_dtype(name):
    spec: Spec = SMALL[name]
    assert spec.replace(device="cuda", seed=9).spec_id == spec.spec_id
    for knob in spec.knobs().values():
        if not knob.identity:
            continue
        other = next(end for end in ends(knob) if end != getattr(spec, knob.name))
        assert spec.replace(**{knob.name: other}).spec_id != spec.spec_id


def test_the_specs_of_two_families_never_share_an_id():
    ids = {family().spec_id for family in PROBLEMS.values()}
    assert len(ids) == len(PROBLEMS)
