"""The notebooks: paired, without outputs, run in a minute, offline, their exercise solvable."""

import importlib.util
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
TEXTS = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name)]
CPU_SECONDS = 60
DRAWS = re.compile(r"^drawing(?:_\w+)?\.(?!reveal|table)\w+\(|^curves\.pane$", re.M)

RUN = """
import resource
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
where = {"metadata": {"path": sys.argv[2]}}
NotebookClient(notebook, timeout=200, kernel_name="python3", resources=where).execute()
nbformat.write(notebook, sys.argv[3])
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print("CPU seconds:", sum(each.ru_utime + each.ru_stime for each in used))
"""


@pytest.fixture(scope="session")
def executed(tmp_path_factory) -> dict[str, tuple[nbformat.NotebookNode, float]]:
    """Every notebook with its outputs, and the CPU seconds that they took; two at a time.

    In processes of their own: nbclient runs an event loop, and Playwright's may be running here.
    """
    folder = tmp_path_factory.mktemp("executed")

    def execute(text: Path) -> tuple[nbformat.NotebookNode, float]:
        target = folder / f"{text.stem}.ipynb"
        command = [sys.executable, "-c", RUN, text.with_suffix(".ipynb"), text.parent, target]
        done = subprocess.run(command, capture_output=True, text=True, cwd=text.parent)
        assert done.returncode == 0, f"{text.name} does not run:\n{done.stderr[-4000:]}"
        seconds = float(done.stdout.rsplit("CPU seconds:", 1)[1])
        return nbformat.read(target, as_version=4), seconds

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(execute, TEXTS))
    return {text.stem: run for text, run in zip(TEXTS, runs, strict=True)}


def outputs(notebook: nbformat.NotebookNode) -> list[dict]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_each_notebook_has_a_number_of_its_own():
    numbers = [path.name[:2] for path in TEXTS]
    assert "01" in numbers and len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_the_notebook_is_what_its_text_says_and_holds_no_outputs(text):
    paired = text.with_suffix(".ipynb")
    advice = f"run: jupytext --update --to ipynb notebooks/{text.name}"
    assert paired.exists(), advice
    written, held = jupytext.read(text), nbformat.read(paired, as_version=4)
    nbformat.validate(held)

    def content(notebook):
        return [(cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]

    assert content(held) == content(written), advice
    code = [cell for cell in held.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert held.metadata.kernelspec.name == "python3"
    assert "widgets" not in held.metadata


@pytest.mark.slow
def test_notebooks_run_in_less_than_a_minute_and_draw_their_figures(executed):
    for name, (notebook, seconds) in executed.items():
        assert seconds < CPU_SECONDS, f"{name} took {seconds:.0f} CPU seconds"
        shown = outputs(notebook)
        assert not [output for output in shown if output.output_type == "error"]
        assert not [output for output in shown if output.get("name") == "stderr"], name
        figures = [cell for cell in notebook.cells if DRAWS.search(cell.source)]
        assert len(figures) >= 5, name
        for cell in figures:
            pages = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
            assert any("data-root-id" in page for page in pages), (name, cell.source)


def test_no_section_goes_without_an_assert():
    for text in TEXTS:
        name, notebook = text.stem, jupytext.read(text)
        asserts = {}
        for cell in notebook.cells:
            title = re.search(r"^## (\d+)\.", cell.source, re.M)
            if cell.cell_type == "markdown" and title:
                section = title[1]
                asserts[section] = 0
            elif asserts and cell.cell_type == "code":
                asserts[section] += cell.source.count("assert ")
        assert [int(number) for number in asserts] == list(range(1, len(asserts) + 1)), name
        assert len(asserts) >= 5 and all(asserts.values()), (name, asserts)


def page_of(notebook: nbformat.NotebookNode) -> str:
    """The outputs as one web page, in order, as a front end without a kernel would show them.

    Without frames: what they show is served by the kernel, which has ended.
    """
    parts = ["<!doctype html><meta charset='utf-8'><title>outputs</title>"]
    parts.append("<link rel='icon' href='data:,'><body>")
    for output in outputs(notebook):
        data = output.get("data", {})
        if "application/javascript" in data:
            parts.append(f"<script>{data['application/javascript']}</script>")
        if "text/html" in data and "<iframe" not in data["text/html"]:
            parts.append(f"<div>{data['text/html']}</div>")
    return "\n".join(parts)


@pytest.mark.slow
def test_the_outputs_name_no_other_machine_to_load_from(executed):
    loads = re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']https?:""", re.I)
    lists = re.compile(r"(?:js|css)_urls = (\[[^\]]*\])")
    for name, (notebook, _) in executed.items():
        page = page_of(notebook)
        assert "Bokeh" in page and len(page) < 12e6, (name, len(page))
        assert not loads.search(page), name
        frames = re.findall(r'<iframe[^>]*src="([^"]*)"', str(outputs(notebook)))
        assert all(re.match(r"http://127\.0\.0\.1:\d+/$", frame) for frame in frames), frames
        for urls in lists.findall(page):
            assert not [url for url in json.loads(urls) if url.startswith("http")], name


# Where a point of the rate fan is in the window.
FAN_AT = """([x, y]) => {
    const models = Bokeh.documents.map((doc) => doc.get_model_by_name('rate fan'))
    const model = models.find((found) => found)
    const view = Bokeh.index.find_one(model), box = view.el.getBoundingClientRect()
    return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)]
}"""


@pytest.mark.slow
def test_the_start_of_the_rate_fan_can_be_dragged_without_a_kernel(executed, page, tmp_path):
    notebook, _ = executed["01_anderson"]
    (tmp_path / "outputs.html").write_text(page_of(notebook))
    page.goto((tmp_path / "outputs.html").as_uri())
    says = page.get_by_text("Started at").first
    says.wait_for()
    assert re.search(r"at 30\.0 degrees, .* by 0\.41\d? per step", says.inner_text())

    says.scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(FAN_AT, [0.6, 0.34]))
    page.mouse.down()
    for step in (0.2, 0.1, 0.0):
        page.mouse.move(*page.evaluate(FAN_AT, [-step, 0.6]))
    page.mouse.up()
    page.get_by_text(re.compile(r"90\.0 degrees")).first.wait_for()
    rate = float(re.search(r"distance by (0\.\d+)", says.inner_text())[1])
    assert 0.24 < rate < 0.27

    page.mouse.click(*page.evaluate(FAN_AT, [-0.6, 0.8]))  # the eigenvector of 1/3
    page.get_by_text(re.compile(r"12[67]\.\d degrees")).first.wait_for()
    assert float(re.search(r"distance by (0\.\d+)", says.inner_text())[1]) < 0.05


@pytest.mark.slow
def test_the_slider_of_the_polynomials_needs_no_kernel(executed, page, tmp_path):
    notebook, _ = executed["02_crossover"]
    (tmp_path / "outputs.html").write_text(page_of(notebook))
    page.goto((tmp_path / "outputs.html").as_uri())
    handle = page.locator(".noUi-handle").first
    handle.focus()
    shown = """() => Bokeh.documents.map((doc) => doc.get_model_by_name('shown k'))
        .find((found) => found).data"""
    before = page.evaluate(shown)
    for _ in range(5):
        handle.press("ArrowRight")
    page.get_by_text("k: 25").first.wait_for()
    after = page.evaluate(shown)
    assert before["x"] == [20, 20] and after["x"] == [25, 25]
    assert all(new < old for new, old in zip(after["y"], before["y"], strict=True))


def load_solutions(name: str):
    path = ROOT / "notebooks" / "solutions" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"solutions_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


ANDERSON_01 = load_solutions("anderson_01")

WRONG = {
    "forward iteration": lambda z_old, f_old, z, f_z: f_z,
    "the sign": lambda *known: 2 * known[3] - ANDERSON_01.solution(*known),
    "points instead of images": lambda z_old, f_old, z, f_z: (
        z - gamma_of(z_old, f_old, z, f_z) * (z - z_old)
    ),
    "the wrong difference": lambda z_old, f_old, z, f_z: (
        f_z - gamma_of(z_old, f_old, z, f_z) * (z - z_old)
    ),
    "element by element": lambda z_old, f_old, z, f_z: (
        f_z - (f_z - z) / ((f_z - z) - (f_old - z_old)) * (f_z - f_old)
    ),
    "half the mixing": lambda *known: 0.5 * ANDERSON_01.solution(*known) + 0.5 * known[2],
    "a number": lambda z_old, f_old, z, f_z: 0.0,
    "nothing": lambda z_old, f_old, z, f_z: None,
    "nan": lambda z_old, f_old, z, f_z: f_z * float("nan"),
}


def gamma_of(z_old, f_old, z, f_z):
    g, dg = f_z - z, (f_z - z) - (f_old - z_old)
    return (g @ dg) / (dg @ dg)


def test_the_solution_of_the_exercise_passes_its_check():
    verdict = ANDERSON_01.check(ANDERSON_01.solution)
    assert verdict.passed and "Right" in str(verdict)


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_answer_to_the_exercise_fails_with_a_hint(mistake):
    verdict = ANDERSON_01.check(WRONG[mistake])
    assert not verdict.passed and str(verdict).startswith("Not yet.")


def test_the_check_of_the_exercise_is_not_fooled_by_a_step_that_writes_into_its_arguments():
    def vandal(z_old, f_old, z, f_z):
        for vector in (z_old, f_old, z, f_z):
            vector.zero_()
        return f_z

    assert not ANDERSON_01.check(vandal).passed
    assert ANDERSON_01.check(ANDERSON_01.solution).passed


def test_the_solution_is_not_in_the_notebook():
    text = (ROOT / "notebooks" / "01_anderson.py").read_text()
    assert "dg @ dg" not in text and "source_hidden" in text
    assert torch.is_tensor(ANDERSON_01.solution(*torch.rand(4, 3)))
