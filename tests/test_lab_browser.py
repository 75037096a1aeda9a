"""The Convergence page as a visitor sees it, in a browser."""

import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bokeh.server.connection import ServerConnection
from conftest import tracebacks

from lab import words
from lab.controls import PRESETS
from lab.theme import DARK, LIGHT

if TYPE_CHECKING:
    from playwright.sync_api import Page

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
# Findings in panel-material-ui's own elements, which we can't change from here.
NOT_OURS = {"aria-progressbar-name", "aria-prohibited-attr", "empty-heading"}


def opened(page: "Page", url: str, query: str = "?problem=tanh") -> None:
    """Go there and wait until the runs have ended."""
    page.goto(url + query)
    answered(page)


def answered(page: "Page", pattern: str = ".") -> str:
    """Wait for an answer that is not pale and matches; returns it."""
    answer = page.locator(".lab-answer p:not(.stale p)").filter(has_text=re.compile(pattern))
    answer.wait_for(timeout=40_000)
    return answer.inner_text()


def curve(page: "Page", name: str) -> list:
    """The median of a live curve as the browser has it."""
    return page.evaluate(
        "name => Array.from(Bokeh.documents[0].get_model_by_name(name).data.median)",
        f"{name} by evaluation",
    )


def test_the_page_opens_on_digits_already_solved_with_the_three_sliders_in_reach(page, lab_server):
    opened(page, lab_server.url, "")
    assert page.locator("h1").all_inner_texts() == [words.QUESTION]
    assert "16 digits" in answered(page)
    for name in ("picard", "anderson"):
        assert len(curve(page, name)) > 20
    sliders = page.locator("input[type=range]:visible")
    names = [slider.get_attribute("aria-label") for slider in sliders.all()]
    assert names[:3] == ["window m", "mixing \u03b2", "batch size B"]
    page.locator(".lab-verdict p").wait_for()
    assert page.locator(".lab-tiles").get_by_text("same equilibrium").count() == 1


def test_a_slider_a_preset_and_the_scrubber_change_what_is_shown(page, lab_server):
    opened(page, lab_server.url)
    old = curve(page, "anderson")
    window = page.get_by_label("window m", exact=True)
    window.focus()
    window.press("ArrowRight")
    answered(page, "With 6 past steps")
    assert curve(page, "anderson") != old
    page.wait_for_url(re.compile("problem=tanh.*window=6"))
    page.get_by_role("button", name="One step back").click()
    page.wait_for_function(
        "[...Bokeh.documents[0].all_models].some("
        "m => m.type === 'Span' && m.visible && m.dimension === 'height')"
    )
    page.get_by_role("button", name="forward wins").click()
    answered(page, "forward iteration needs")
    page.wait_for_url(re.compile("problem=newton"))


def test_a_third_run_is_chosen_compared_in_words_and_what_anderson_decided_unfolds(
    page, lab_server
):
    opened(page, lab_server.url, "?problem=tanh&restart=auto")
    page.get_by_label("also show").click()
    page.get_by_role("menuitem", name="full restart").click()
    page.wait_for_url(re.compile("also=restart"))
    page.locator(".lab-verdict p").filter(has_text="Choosing what to keep").wait_for()
    assert len(curve(page, "restart")) > 20
    fold = page.get_by_role("button", name="What Anderson decided")
    assert fold.get_attribute("aria-expanded") == "false"
    fold.click()
    page.get_by_text("slow directions (foretold").click()  # only what is not covered can be
    assert fold.get_attribute("aria-expanded") == "true"
    assert lasting_findings(page) == []


def test_a_link_with_nonsense_is_explained_escaped_and_used_as_far_as_it_goes(page, lab_server):
    attack = "<img src=x onerror=window.hacked=1>"
    opened(
        page,
        lab_server.url,
        f"?problem=tanh&window=999&mixing=0.7&{attack}={attack}&dtype={attack}",
    )
    warning = page.locator(".warning").first.inner_text()
    assert "999" in warning and "0 to 100" in warning
    assert page.evaluate("window.hacked") is None
    assert page.get_by_label("mixing \u03b2", exact=True).input_value() == "0.7"
    page.wait_for_url(lambda address: "mixing=0.7" in address and "999" not in address)


def test_a_client_that_sends_values_out_of_range_is_refused_in_words(page, lab_server):
    opened(page, lab_server.url)
    page.evaluate(
        """() => { for (const model of Bokeh.documents[0].all_models)
             if (model.data && model.data.label === 'batch size B') model.data.value = 100000 }"""
    )
    page.locator(".lab-notice").get_by_text("100000 is not allowed").wait_for()
    assert "16 samples" in answered(page)


def test_pins_go_into_the_table_and_into_the_link_and_code_and_card_unfold(page, lab_server):
    opened(page, lab_server.url)
    page.get_by_role("button", name="Pin this run").click()
    page.get_by_role("cell", name="Random tanh layer").wait_for()
    page.wait_for_url("**pin=**")
    page.get_by_role("button", name="How was this made?").click()
    page.get_by_text("Full run cards").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = Path(download.value.path()).read_text().splitlines()
    assert rows[0].startswith("method,evaluation,sample") and len(rows) > 100
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    page.goto(page.url)
    page.get_by_role("cell", name="Random tanh layer").wait_for(timeout=40_000)


def test_the_theme_reaches_figures_and_all_is_accessible_in_both(page, lab_server):
    opened(page, lab_server.url)
    page.get_by_role("button", name="More knobs").click()
    page.locator(".lab-section h3").filter(has_text="Solver").wait_for()
    for colors in (LIGHT, DARK):
        if colors.dark:
            page.get_by_role("button", name="Toggle theme").click()
        page.wait_for_function(
            "color => [...Bokeh.documents[0].all_models].filter(m => m.type === 'Figure')"
            ".every(m => m.background_fill_color === color)", arg=colors.paper,
        )  # fmt: skip
        assert lasting_findings(page) == []


def lasting_findings(page: "Page") -> list[str]:
    """Findings that do not go away when colors have faded from one theme into the other."""
    for _ in range(8):
        if not (found := findings(page)):
            break
        page.wait_for_timeout(500)
    return found


def findings(page: "Page") -> list[str]:
    """Serious and critical findings of axe-core in elements of ours."""
    page.evaluate(AXE.read_text())
    violations = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    bad = [each for each in violations if each["impact"] in ("serious", "critical")]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in bad
        if each["id"] not in NOT_OURS
    ]


def test_every_control_is_reached_with_the_tab_key(page, lab_server):
    opened(page, lab_server.url)
    names = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        names.add(page.evaluate(DEEPEST))
    wanted = [
        "window m",
        "mixing \u03b2",
        "batch size B",
        "Play",
        "evaluation",
        "Pin this run",
        "Copy link",
    ]
    wanted += [*PRESETS, "More knobs", "Toggle theme"]
    assert [
        name for name in wanted if not any(name.lower() in seen.lower() for seen in names)
    ] == []


DEEPEST = """() => {
  let element = document.activeElement
  while (element && element.shadowRoot && element.shadowRoot.activeElement)
    element = element.shadowRoot.activeElement
  return (element.getAttribute('aria-label') || element.innerText || element.tagName || '').trim()
}"""


def test_only_bokehs_race_between_a_ping_and_a_page_that_is_left_is_forgiven_in_the_log():
    connection = ServerConnection.__new__(ServerConnection)
    connection._session = None
    with pytest.raises(AssertionError) as left:
        _ = connection.session
    with pytest.raises(AssertionError) as ours:
        assert connection._session is not None
    races, others = ("".join(traceback.format_exception(each.value)) for each in (left, ours))
    assert tracebacks(races) == []
    assert len(tracebacks(races + others + races)) == 1
