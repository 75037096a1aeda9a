"""The peaks of the machine are measured once, positive, and survive JSON; no speed is asserted."""

import json
import math

import pytest
import torch

from andersonn_core import memory
from andersonn_core.machine import LARGEST, SMALLEST, SQUARE, Machine, Rate, measure_machine
from andersonn_core.memory import cache_sizes, place


@pytest.fixture(scope="module")
def machine():
    return measure_machine()


def test_a_machine_is_measured_once_in_a_process(machine):
    assert measure_machine() is machine


def test_every_rate_lies_in_its_spread_above_zero(machine):
    for rate in (*machine.streams.values(), *machine.products.values(), machine.calls):
        assert 0 < rate.low <= rate.median <= rate.high < math.inf


def test_the_ladder_doubles_from_the_smallest_working_set_on(machine):
    sizes = list(machine.streams)
    assert sizes == [SMALLEST * 2**k for k in range(len(sizes))]
    assert sizes[-1] <= LARGEST


def test_the_record_says_what_was_measured_and_how(machine):
    assert (machine.threads, machine.clock) == (1, "thread CPU time")
    assert machine.torch_version == torch.__version__
    assert machine.device and machine.date.endswith("+00:00")
    assert set(machine.products) == set(SQUARE)


def test_json_gives_the_same_machine_back(machine):
    assert Machine.from_json(machine.to_json()) == machine
    assert list(Machine.from_json(machine.to_json()).streams) == list(machine.streams)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("calls"),
        lambda record: record.update(speed=1),
        lambda record: record["streams"].update(much=record["calls"]),
        lambda record: record["products"].update(float32={"median": 1.0}),
        lambda record: record.update(streams=[1.0]),
    ],
    ids=["missing", "unknown", "size", "rate", "kind"],
)
def test_what_is_no_machine_is_refused(machine, change):
    record = json.loads(machine.to_json())
    change(record)
    with pytest.raises(ValueError, match="no record of a machine"):
        Machine.from_json(json.dumps(record))


@pytest.mark.parametrize("text", ["", "[]", "1", "null"])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(ValueError, match="no record of a machine"):
        Machine.from_json(text)


def made(**changes):
    """Two rungs: 100 B/s through 1 KiB, 10 B/s through 4 KiB."""
    rate = {"low": 1.0, "high": 200.0}
    facts = dict(
        device="a", torch_version="b", threads=1, clock="c", date="d",
        caches={"L1": 1024, "L2": 2048},
        streams={1024: Rate(100.0, **rate), 4096: Rate(10.0, **rate)},
        products={"float32": Rate(50.0, **rate)}, calls=Rate(4.0, **rate),
    )  # fmt: skip
    return Machine(**(facts | changes))


def test_the_bandwidth_is_measured_on_the_rungs_linear_between_and_level_beyond():
    speeds = [made().bandwidth(size) for size in (1, 1024, 2048, 4096, 10**9)]
    assert speeds == pytest.approx([100, 100, 55, 10, 10])


@pytest.mark.parametrize("size", [0, -1, math.nan])
def test_a_working_set_of_nothing_has_no_bandwidth(size):
    with pytest.raises(ValueError, match="working_set"):
        made().bandwidth(size)


def test_the_place_is_the_smallest_cache_that_holds_it():
    assert [made().place(size) for size in (1, 1024, 1025, 2049)] == [
        "L1 cache", "L1 cache", "L2 cache", "memory",
    ]  # fmt: skip
    assert place(1, {}) == "memory"


def test_a_peak_that_was_not_measured_is_refused_with_those_that_were():
    assert made().peak(torch.float32) == 50.0
    with pytest.raises(ValueError, match="float16: there are float32"):
        made().peak(torch.float16)


def test_cache_sizes_are_read_where_the_system_tells_them(tmp_path, monkeypatch):
    caches = [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("2", "Unified", "1M"),
              ("3", "Unified", "512")]  # fmt: skip
    for number, facts in enumerate(caches):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), facts, strict=True):
            (folder / name).write_text(value + "\n")
    monkeypatch.setattr(memory, "_CACHES", tmp_path)
    assert cache_sizes() == {"L1": 2**15, "L2": 2**20, "L3": 512}
    monkeypatch.setattr(memory, "_CACHES", tmp_path / "nowhere")
    assert cache_sizes() == {}
