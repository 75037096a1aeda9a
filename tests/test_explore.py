"""`explore(f, z0)`: the live page for anybody's own map."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from andersonn_core import Anderson, KnobError, solve
from lab import explore
from lab.also import ALSO
from lab.code import NAMES
from lab.live import Live
from lab.own_map import OwnMap

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]


def halve(z):
    return 0.5 * z + 1


def settled(page: OwnMap, seconds: float = 20.0, beyond: Live | None = None) -> OwnMap:
    """Without a server and a loop the page is published to directly.

    `beyond`: what the page shows still, of runs before these.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if page.live.complete and not page.runner.running and page.live is not beyond:
            return page
        time.sleep(0.02)
    pytest.fail("the runs did not end")


@pytest.mark.parametrize(
    "z0",
    [
        torch.zeros(3, 5),
        np.zeros((3, 4)),
        torch.zeros(2, 3, 4, dtype=torch.float64),
    ],
    ids=["tensor", "numpy", "float64 of rank 3"],
)
def test_tensors_and_arrays_are_iterated_as_solve_would(z0):
    page = settled(explore(halve, z0).page())
    for name, spec in page.specs.items():
        alone = solve(halve, z0, spec.method, rtol=spec.rtol, max_iter=spec.max_iter)
        assert page.live.results[name].num_evals == alone.num_evals
    assert "halve" == page.live.problem_name
    assert page.answer.headline.object


def test_a_tuple_of_tensors_and_a_single_sample_are_states_too():
    def swap(state):
        a, b = state
        return 0.5 * b + 1, 0.25 * a

    page = settled(explore(swap, (torch.zeros(4, 2), torch.zeros(4, 3)[:, :2])).page())
    assert page.live.results["anderson"].converged.all()
    page = settled(explore(halve, torch.zeros(7), batch_dims=0).page())
    assert page.live.results["anderson"].status.shape == (1,)


@pytest.mark.parametrize("also", ["none", *ALSO])
def test_the_code_it_offers_gives_the_same_counts(also):
    page = settled(explore(halve, torch.zeros(3, 5)).page())
    before = page.live
    page.controls.apply({"also": also, "restart": "deflated"})
    settled(page, beyond=before)
    assert len(page.live.results) == 2 + (also != "none")
    names = {"f": halve, "z0": torch.zeros(3, 5)}
    exec(page.code(), names)
    for role, result in page.live.results.items():
        if role != "auto":  # it decides by measured seconds
            assert names[NAMES[role]].num_evals == result.num_evals


def test_without_a_server_two_threads_never_update_the_page_at_once():
    page = settled(explore(halve, torch.zeros(3, 5)).page())
    inside, seen = [], []

    def update():
        inside.append(1)
        seen.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    threads = [threading.Thread(target=page.on_document, args=(update,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 5


def test_problem_controls_are_hidden_and_the_method_s_are_not():
    page = explore(halve, torch.zeros(1, 2)).page()
    shown = [
        type(item).__name__ + getattr(item, "label", "") for item in page.rail.__panel__().select()
    ]
    assert any("window m" in each for each in shown)
    assert not any(
        "Problem" in each or "batch size" in each or "spectrum" in each for each in shown
    )


def test_a_map_that_raises_is_a_sentence():
    def broken(z):
        raise RuntimeError("the <b>furnace</b> is cold")

    page = settled(explore(broken, torch.zeros(1, 2)).page())
    assert "furnace" in page.answer.verdict.object and "<b>" not in page.answer.verdict.object


def test_a_start_that_cannot_be_iterated_from_is_refused_at_once():
    with pytest.raises(KnobError, match="integer|float"):
        explore(halve, torch.zeros(2, 2, dtype=torch.int64))


def test_own_runs_can_be_pinned():
    page = settled(explore(halve, torch.zeros(3, 5)).page())
    assert page._pin().startswith("Pinned")
    assert page.pins.rows()[0][1] == "halve"
    assert isinstance(page.pins.items[0].method, Anderson)


APP = """
import numpy as np, panel as pn
pn.extension()
from lab import explore
rng = np.random.default_rng(0)
A, x = rng.normal(size=(20, 20)) / 6, rng.normal(size=(4, 20))
explore(lambda z: np.tanh(z @ A.T + x), np.zeros((4, 20)), name="my layer").servable()
"""


@pytest.fixture
def own_app(tmp_path: Path) -> Iterator[str]:
    """An app of a user's own that serves `explore`; its address."""
    (tmp_path / "own.py").write_text(APP)
    command = [sys.executable, "-m", "panel", "serve", str(tmp_path / "own.py"), "--port", "0"]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "running at: " in line:
            yield line.split("running at: ")[1].strip()
            break
    process.terminate()
    rest = process.communicate()[0]
    assert "Traceback" not in rest, rest


CELL = """
import asyncio, re, urllib.request
import numpy
from lab import explore

async def cell():  # as in a kernel: on the running loop
    shown = explore(numpy.cos, numpy.zeros((1, 1)), name="<i>cosines")
    bundle = shown._repr_mimebundle_()
    assert shown._repr_mimebundle_() == bundle, "shown twice, served once"
    frame = bundle["text/html"]
    assert len(frame) < 1000 and "<i>" not in frame, frame
    address = re.search('src="(http://127.0.0.1:[0-9]+/)"', frame).group(1)
    with await asyncio.to_thread(urllib.request.urlopen, address, timeout=60) as answer:
        print(answer.status, "cosines" in answer.read().decode())

asyncio.run(cell())
"""


def test_a_notebook_cell_shows_a_frame_around_a_page_that_the_kernel_serves_until_it_ends():
    command = [sys.executable, "-c", CELL]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "200 True", done.stdout + done.stderr


def test_it_can_be_served(own_app: str, page: "Page"):  # the page closes before its server stops
    page.goto(own_app)
    page.locator(".lab-answer p").filter(has_text="4 samples").wait_for(timeout=40_000)
    assert page.get_by_label("window m", exact=True).is_visible()
    assert page.get_by_text("my layer").count() >= 1
