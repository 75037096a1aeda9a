"""Recordings in the dashboard: whole or refused in words, labeled, beside the live curves."""

import json
import os
import re
from typing import TYPE_CHECKING

import pytest
from recording_cases import GPU, alter, put, quick_recording, relabeled
from test_lab_browser import answered, lasting_findings, opened
from test_lab_crossover import page_of as crossover_page
from test_lab_crossover import plan
from test_lab_crossover import small as small  # a fixture
from test_lab_page import contrast, page_of

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec
from andersonn_core.record.crossing import DeviceCrossover
from andersonn_core.record.curves import ResidualCurve
from andersonn_core.record.file import SCHEMA, read
from andersonn_core.words import seconds_text
from lab import recorded_words as words
from lab import recordings
from lab.figures.recorded import Recorded
from lab.pages.devices_card import Devices
from lab.pages.recorded_card import RecordedCrossover
from lab.phase import Plan
from lab.recordings import FOLDER_VARIABLE, NO_GPU_AND_NO_RECORDING, look
from lab.theme import DARK, GPU_GREEN, LIGHT

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def of_cpu() -> dict:
    return quick_recording()


@pytest.fixture(scope="module")
def of_gpu(of_cpu) -> dict:
    return relabeled(of_cpu)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the dashboard looks; empty, unless a test puts something there."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


# -- what is there, and whole ---------------------------------------------------------------------


def test_without_gpu_and_recording_there_is_one_honest_line(folder):
    found = look()
    assert (list(found.recordings), found.refusals) == ([], "")
    assert found.missing("tanh") == NO_GPU_AND_NO_RECORDING
    assert look(folder / "nowhere") == found


def test_the_newest_recording_of_a_problem_is_shown_and_named(folder, of_gpu):
    put(of_gpu, folder, date="2026-01-02")
    put(of_gpu, folder, "b.json", date="2026-03-04")
    put(of_gpu, folder, "c.json", date="2026-05-06", runs={})
    found = look()
    recording, rows = found.newest(lambda each: each.gpu_timings("tanh"))
    version = of_gpu["versions"]["torch"]
    assert recording.label.startswith(f"Recorded on {GPU}, 2026-03-04, torch {version}")
    assert recording.label.endswith(", CUDA 13.0") and "None" not in recording.label
    assert rows and all(row.gpu and row.device == GPU for row in rows)
    assert found.newest(lambda each: each.gpu_timings("newton")) == (None, ())
    assert "do not include Newton" in found.missing("newton")


def test_a_recording_of_a_cpu_alone_is_no_recorded_gpu(folder, of_cpu):
    put(of_cpu, folder)
    found = look()
    (recording,) = found.recordings
    assert not recording.gpu and recording.curves and recording.crossovers
    assert recording.gpu_curves("tanh") == recording.crossovers_of("digits_deq") == []
    assert found.missing("tanh") == NO_GPU_AND_NO_RECORDING


def test_an_altered_recording_is_refused_and_named_and_harms_no_other(folder, of_gpu):
    alter(put(of_gpu, folder))
    found = look()
    assert found.recordings == []
    assert found.refusals == "The recording a.json was refused: its numbers were altered."
    put(of_gpu, folder, "b.json")
    assert len(look().recordings) == 1 and look().refusals == found.refusals


def test_an_older_format_is_told_in_words_and_not_shown(folder, of_gpu):
    put(of_gpu, folder, "old.json", schema=SCHEMA - 1)
    found = look()
    assert found.recordings == []
    assert re.fullmatch(
        rf"The recording old.json is not shown: .*{SCHEMA - 1}; .* reads {SCHEMA}\. Record again\.",
        found.refusals,
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 3}', "\0"])
def test_any_other_file_spoils_nothing(folder, of_gpu, text):
    put(of_gpu, folder)
    (folder / "broken.json").write_text(text)
    (folder / "gone.json").symlink_to(folder / "nowhere")
    assert len(look().recordings) == 1 and look().refusals == ""


def test_a_recording_without_a_section_is_no_recording(folder, of_gpu):
    put(of_gpu, folder, sections={"timing": {"rows": []}})
    assert look().recordings == []


def test_a_file_is_read_once_and_again_when_it_changed(folder, of_gpu, monkeypatch):
    reads = []
    monkeypatch.setattr(recordings, "read", lambda path: reads.append(path) or read(path))
    path = put(of_gpu, folder)
    assert [len(look().recordings) for _ in range(3)] == [1, 1, 1] and len(reads) == 1
    alter(path)
    assert look().recordings == [] and len(reads) == 2


def test_the_recordings_of_the_repository_are_whole():
    found = look(recordings.CHECKOUT)
    assert len(found.recordings) == len(list(recordings.CHECKOUT.glob("*.json")))
    assert found.refusals == ""


# -- the strip ------------------------------------------------------------------------------------


def strip(problem: str = "tanh") -> Devices:
    card = Devices(LIGHT, lambda function: None)
    card.problem = problem
    card._draw()
    return card


@pytest.fixture
def no_gpu(monkeypatch):
    """Where there is one, the strip measures instead."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_the_strip_shows_recorded_bars_below_their_banner_or_one_honest_line(
    folder, of_gpu, no_gpu
):
    card = strip()
    assert card.note.object == NO_GPU_AND_NO_RECORDING
    assert not card.pane.visible and not card.banner.pane.visible
    put(of_gpu, folder)
    card = strip()
    assert GPU in card.banner.pane.object and card.banner.pane.visible and card.pane.visible
    assert card.bars.source.data["gpu"] == [True, True]
    alter(folder / "a.json")
    card = strip()
    assert "was refused" in card.note.object and not card.banner.pane.visible


def test_names_in_a_recording_are_escaped(folder, of_gpu, no_gpu):
    put(of_gpu, folder, device="<img src=x>")
    card = strip()
    assert "&lt;img" in card.banner.pane.object and "<img" not in card.banner.pane.object


# -- beside the live curves -----------------------------------------------------------------------


def lines_of(view, axis):
    """The recorded lines of a plot: role, points."""
    data = view.curves.pair.plots[axis].lines.data
    rows = [k for k, color in enumerate(data["color"]) if color == GPU_GREEN]
    return {data["name"][k]: (data["x"][k], data["y"][k]) for k in rows}


def lay(view, yes=True):
    """What the checkbox does, without a server's thread."""
    view.curves.beside.value = yes
    view.curves._lay_beside()


def test_recorded_curves_lie_beside_the_live_ones_by_evaluations_and_by_seconds(folder, of_gpu):
    put(of_gpu, folder)
    view, _ = page_of(rtol=1e-6)
    assert view.curves.offer_pane.visible and lines_of(view, "seconds") == {}
    lay(view)
    rows = [ResidualCurve(**row) for row in of_gpu["sections"]["curves"]["rows"] if row["gpu"]]
    names = ["GPU, recorded: forward", "GPU, recorded: Anderson"]
    for axis in ("evaluation", "seconds"):
        drawn = lines_of(view, axis)
        assert list(drawn) == names
        for row, (x, y) in zip(rows, drawn.values(), strict=True):
            count = next(k for k, level in enumerate(row.residual_at, 1) if level <= 1e-6)
            steps = list(range(1, count + 1))
            assert list(x) == (row.seconds_at[:count] if axis == "seconds" else steps)
            assert list(y) == row.residual_at[:count]
            assert view.curves.pair.x[axis].end > x[-1]
        texts = view.curves.pair.plots[axis].labels.data["text"]
        ends = [next(text for text in texts if text.startswith(name)) for name in names]
        told = [
            seconds_text(x[-1]) if axis == "seconds" else str(len(x)) for x, _ in drawn.values()
        ]
        assert ends == [f"{name} {end}" for name, end in zip(names, told, strict=True)]
    assert GPU in view.curves.banner.pane.object and view.curves.banner.pane.visible
    lay(view, False)
    assert lines_of(view, "seconds") == {} and not view.curves.banner.pane.visible
    assert view.curves.settings.object == ""


def test_a_recording_names_its_settings_and_stays_when_controls_move(folder, of_gpu):
    put(of_gpu, folder)
    view, settle = page_of(rtol=1e-6)
    lay(view)
    told = view.curves.settings.object
    for part in ("batch size 16", "float32", "window 5", "solved to 1e-6", "stays as it is"):
        assert part in told
    before = lines_of(view, "evaluation")
    live = view.live
    view.controls.apply({"window": 2, "batch_size": 3})
    settle(beyond=live)
    assert lines_of(view, "evaluation") == before and view.curves.settings.object == told
    live = view.live
    view.controls.apply({"rtol": 1e-3})
    settle(beyond=live)
    shorter = lines_of(view, "evaluation")
    assert all(len(shorter[name][0]) < len(before[name][0]) for name in before)
    assert "drawn down to 1e-3" in view.curves.settings.object


def test_another_problem_takes_the_recorded_curves_away(folder, of_gpu):
    put(of_gpu, folder)
    view, settle = page_of()
    lay(view)
    live = view.live
    view.controls.apply({"problem": "affine"})
    settle(beyond=live)
    assert lines_of(view, "seconds") == {} and not view.curves.offer_pane.visible
    assert not view.curves.banner.pane.visible
    live = view.live
    view.controls.apply({"problem": "tanh"})
    settle(beyond=live)
    assert len(lines_of(view, "seconds")) == 2 and view.curves.banner.pane.visible


def test_nothing_is_offered_without_a_recorded_gpu(folder, of_cpu):
    put(of_cpu, folder)
    view, _ = page_of()
    assert not view.curves.offer_pane.visible and not view.curves.offer_pane.objects


def test_a_recorded_line_ends_where_its_median_is_no_number_any_more(of_gpu):
    row = next(row for row in of_gpu["sections"]["curves"]["rows"] if row["gpu"])
    lost = Recorded.of(ResidualCurve(**row | {"residual_at": [1.0, 0.5, None, None]}))
    assert lost.columns["median"] == [1.0, 0.5] and len(lost.columns["seconds"]) == 2
    assert lost.points("evaluation", 0.7) == ([1.0, 2.0], [1.0, 0.5])


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_recorded_gpu_lines_are_green_and_differ_from_all_others_without_color(colors):
    others = [*colors.strokes.values()]
    for stroke in colors.gpu.values():
        assert stroke.color == GPU_GREEN and contrast(stroke.ink, colors.paper) >= 4.5
        assert contrast(stroke.color, colors.paper) >= 3.0
        for kind in ("dash", "marker"):
            assert getattr(stroke, kind) not in {getattr(each, kind) for each in others}
        others.append(stroke)


# -- the crossover --------------------------------------------------------------------------------


def crossings(of_gpu: dict) -> list[DeviceCrossover]:
    return [DeviceCrossover(**row) for row in of_gpu["sections"]["crossover"]["rows"]]


def digits_plan() -> Plan:
    problem = PROBLEMS["digits_deq"](batch_size=2)
    return Plan(*(SolveSpec(problem=problem, method=each) for each in (Picard(), Anderson())))


def test_the_crossover_page_shows_what_was_recorded_of_its_problem(small, folder, of_gpu):
    put(of_gpu, folder)
    view, _ = crossover_page()
    assert not view.recorded.box.visible  # only the digits model's is recorded
    view._replay(digits_plan())
    card = view.recorded
    assert card.box.visible and GPU in card.banner.pane.object
    rows = crossings(of_gpu)
    seconds, factors = card.seconds.dots.data, card.speedup.dots.data
    assert len(seconds["x"]) == 2 * len(rows) and set(seconds["x"]) == {1, 16}
    assert sorted(factors["y"]) == sorted(row.speedup for row in rows)
    assert set(card.seconds.labels.data["text"]) == {
        "CPU, forward", "CPU, Anderson", "GPU, forward", "GPU, Anderson",
    }  # fmt: skip
    assert GPU_GREEN in card.seconds.lines.data["color"]
    assert card.table.object.count("<tr>") == 1 + len(rows)
    view._replay(plan())
    assert not card.box.visible
    view.close()


def test_the_crossover_page_says_which_recording_was_refused_and_has_no_empty_card(
    small, folder, of_gpu
):
    alter(put(of_gpu, folder))
    view, _ = crossover_page()
    view._replay(digits_plan())
    view._explain()
    assert "The recording a.json was refused" in view.answer.status.object
    assert not view.recorded.box.visible and not view.recorded.parts.objects
    view.close()


def row(of_gpu: dict, gpu: bool, size: int, wall_seconds: float, **changes) -> DeviceCrossover:
    """A row with these wall seconds for both methods, exact to 10 %."""
    known = next(each for each in of_gpu["sections"]["crossover"]["rows"])
    wall = {
        f"{name}_wall_seconds{end}": wall_seconds * factor
        for name in ("forward", "anderson")
        for end, factor in (("_low", 0.9), ("", 1.0), ("_high", 1.1))
    }
    head = {"gpu": gpu, "batch_size": size, "kind": "at", "seconds": 0.02}
    return DeviceCrossover(**known | head | wall | changes)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({1: 0.5, 16: 1.5, 64: 4.0}, "from batch size 16 on."),
        ({1: 2.0, 16: 3.0}, "at every recorded batch size, from 1 to 16."),
        ({1: 0.5, 16: 1.05}, "at no recorded batch size, from 1 to 16."),  # quartiles overlap
        ({1: 2.0, 16: 0.5, 64: 2.0}, "at batch size 1, 64."),
    ],
)
def test_the_sentence_names_the_batch_size_from_which_the_gpu_is_ahead(of_gpu, factors, said):
    rows = [row(of_gpu, False, size, factor) for size, factor in factors.items()]
    rows += [row(of_gpu, True, size, 1.0) for size in factors]
    assert f"With either method the GPU is ahead of the CPU {said}" in words.crossover_lines(rows)


def test_the_sentence_names_the_methods_where_they_differ(of_gpu):
    slow = {f"forward_wall_seconds{end}": 9.0 for end in ("", "_low", "_high")}
    rows = [row(of_gpu, False, 1, 1.0, **slow), row(of_gpu, True, 1, 2.0)]
    told = words.crossover_lines(rows)
    assert "With forward iteration the GPU is ahead of the CPU at every" in told
    assert "With Anderson the GPU is ahead of the CPU at no" in told


def test_the_sentence_says_where_anderson_overtakes_on_each_device(of_gpu):
    never = {"kind": "none", "seconds": None}
    rows = [row(of_gpu, False, 1, 1.0), row(of_gpu, False, 16, 1.0, seconds=0.5)]
    rows += [row(of_gpu, True, 1, 1.0, **never), row(of_gpu, True, 16, 1.0, **never)]
    told = words.crossover_lines(rows)
    assert "On the CPU, Anderson is ahead: after 20 ms at batch size 1; after 500 ms at" in told
    assert "On the GPU, Anderson is ahead: never at batch size 1, 16." in told


def test_a_batch_size_that_one_device_lacks_is_not_compared(of_gpu):
    rows = [row(of_gpu, False, 1, 2.0), row(of_gpu, True, 1, 1.0), row(of_gpu, False, 16, 9.0)]
    assert words.sooner(rows, "anderson") == {1: pytest.approx(2.0)}
    card = RecordedCrossover(DARK)
    card.show(None, rows)
    card.paint(LIGHT)
    assert len(card.seconds.dots.data["x"]) == 6


# -- as a visitor sees it -------------------------------------------------------------------------


def test_in_a_browser_a_recording_is_offered_labeled_and_in_the_link(
    page: "Page", lab_server, of_gpu
):
    put(of_gpu, lab_server.recordings)
    try:
        opened(page, lab_server.url)
        page.get_by_label(words.OFFER).click()
        page.locator(".recorded").filter(has_text=f"Recorded on {GPU}").first.wait_for()
        page.get_by_text("A recording stays as it is").wait_for()
        page.wait_for_url(re.compile("recorded=on"))
        page.reload()
        answered(page)
        page.get_by_text("A recording stays as it is").wait_for()
        assert lasting_findings(page) == []
    finally:
        os.remove(lab_server.recordings / "a.json")


def test_the_digest_of_a_copy_in_a_test_is_that_of_its_content(folder, of_gpu):
    path = put(of_gpu, folder)
    assert read(path)["device"] == GPU and json.loads(path.read_text())["gpu"]
