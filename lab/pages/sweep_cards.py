"""The Sweeps page's cards besides its views: what to run, and where the rows are."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import panel as pn
import panel_material_ui as pmui

from andersonn_core import RunCard
from lab.pages.card import STYLE, Card, escape, text
from lab.pages.shelf import card_table
from lab.sweeps.answers import short
from lab.sweeps.card import WIDE
from lab.sweeps.folder import schedulers
from lab.sweeps.library import Listed
from lab.sweeps.setup import MOST_AXES, SweepSetup

HERE, PROCESSES, NONE, NOTHING = "this process", "processes", "(no axis)", "(nothing)"


class SetupCard(Card):
    """Axes with their values, seeds, repeats, and where the trials run."""

    title = "A sweep around the sliders"

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self._changed, self._busy = changed, False
        self.names = [_select(f"axis {1 + place}", width=130) for place in range(MOST_AXES)]
        self.values = [_field("values", "1:9, or 0.6,0.8,1") for _ in range(MOST_AXES)]
        self.seeds = _field("seeds", "0:2", width=90)
        self.repeats = pmui.IntInput(
            label="repeats", value=1, start=1, end=100, width=90, size="small", margin=(8, 8, 0, 0)
        )
        self.engine = _select("runs on", width=230)
        self.engine.param.update(options=[HERE, PROCESSES, *schedulers()], value=HERE)
        self.rows = [
            pn.Row(name, field, margin=0, stylesheets=[STYLE])
            for name, field in zip(self.names, self.values, strict=True)
        ]
        for widget in (*self.names, *self.values, self.seeds, self.repeats):
            widget.param.watch(lambda _: self._moved(), "value")

    def _moved(self) -> None:
        if not self._busy:
            self._changed()

    @property
    def setup(self) -> SweepSetup:
        """What is chosen."""
        pairs = zip(self.names, self.values, strict=True)
        axes = {name.value: field.value for name, field in pairs if name.value != NONE}
        return SweepSetup(axes, self.seeds.value, self.repeats.value)

    @property
    def executor(self) -> str:
        """Where it runs, as `Sweep.run` wants it."""
        return {HERE: "serial"}.get(self.engine.value, str(self.engine.value))

    def offer(self, names: Sequence[str], setup: SweepSetup | None = None) -> None:
        """The knobs that can be axes now; an axis that the new problem lacks is let go."""
        chosen = list((self.setup if setup is None else setup).axes.items())
        kept = [(name, values) for name, values in chosen if name in names]
        kept += [(NONE, "")] * (MOST_AXES - len(kept))
        self._busy = True
        try:
            for (name, values), select, field in zip(kept, self.names, self.values, strict=True):
                select.param.update(options={NONE: NONE, **_labels(names)}, value=name)
                field.value = values
            for place, row in enumerate(self.rows):  # one more than there are axes
                row.visible = place <= sum(name != NONE for name, _ in kept)
            if setup is not None:
                self.seeds.value, self.repeats.value = setup.seeds, setup.repeats
        finally:
            self._busy = False

    def __panel__(self) -> pn.viewable.Viewable:
        rows = pn.FlexBox(
            *self.rows, self.seeds, self.repeats, self.engine,
            sizing_mode="stretch_width", margin=0, stylesheets=[STYLE],
        )  # fmt: skip
        return self.boxed(rows, noted=False)


class StoreCard(Card):
    """Which store and sweep are shown; what failed in it; its files; another store beside it."""

    title = "Where the rows are"

    def __init__(
        self,
        choose: Callable[[], None],
        files: dict[str, Callable[[], io.BytesIO]],
        compare: Callable[[str], str],
        card: Callable[[], tuple[str, RunCard] | None],
    ) -> None:
        super().__init__()
        self._choose, self._card, self._busy = choose, card, False
        self.store, self.sweep = _select("store", width=220), _select("sweep", **WIDE)
        self.other = _select("compare with", width=220)
        for widget in (self.store, self.sweep):
            widget.param.watch(lambda _: self._chosen(), "value")
        self.other.param.watch(lambda event: self._compare(compare, event.new), "value")
        self.compared, self.failed = text("", "lab-note"), text("", "lab-table")
        self.made = text("", visible=False)
        how = pmui.Button(
            label="How was this made?", icon="receipt_long", variant="outlined", size="small",
            margin=(8, 8, 4, 0),
        )  # fmt: skip
        how.on_click(lambda _: self._unfold())
        self.buttons = [*(_download(name, make) for name, make in files.items()), how]

    def _chosen(self) -> None:
        if not self._busy:
            self._choose()

    def _compare(self, compare: Callable[[str], str], name: str) -> None:
        if not self._busy:
            words = compare(name) if name != NOTHING else ""
            self.compared.object = escape(words)

    def _unfold(self) -> None:
        if (found := self._card()) is not None:
            self.made.visible = not self.made.visible
            self.show_card(*found)

    def show_card(self, words: str, card: RunCard) -> None:
        """The run card of a trial, which `words` name, if cards are looked at."""
        if self.made.visible:
            self.made.object = card_table({words: card})

    def offer(
        self, stores: Sequence[str], store: str, listed: Sequence[Listed], sweep: str
    ) -> None:
        """The stores of the folder and the sweeps of the chosen one."""
        self._busy = True
        try:
            _offer(self.store, list(stores), store)
            known = {each.label: each.sweep_id for each in listed}
            self.sweep.visible = sweep in known.values()
            if self.sweep.visible:
                _offer(self.sweep, known, sweep)
            others = [NOTHING, *(name for name in stores if name != store)]
            value = self.other.value if self.other.value in others else NOTHING
            _offer(self.other, others, value)
        finally:
            self._busy = False

    def show_failed(self, rows: Sequence[tuple[str, str]], total: int) -> None:
        """The failed trials, each with its setting and its reason."""
        body = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in rows)
        more = f"<p class='empty'>and {total - len(rows):,} more</p>" if total > len(rows) else ""
        head = "<thead><tr><th scope='col'>failed trial</th><th scope='col'>why</th></tr></thead>"
        table = f"<table>{head}<tbody>{body}</tbody></table>{more}"
        self.failed.object = (
            f"<div class='wide' tabindex='0' role='region' aria-label='Failed trials'>{table}</div>"
            if rows else ""
        )  # fmt: skip

    def __panel__(self) -> pn.viewable.Viewable:
        line = pn.FlexBox(
            self.store, self.sweep, self.other, sizing_mode="stretch_width", margin=0,
            stylesheets=[STYLE],
        )  # fmt: skip
        buttons = pn.FlexBox(
            *self.buttons, sizing_mode="stretch_width", margin=0, stylesheets=[STYLE]
        )
        return self.boxed(line, self.compared, buttons, self.made, self.failed)


def _offer(select: Any, options: Any, value: Any) -> None:
    """New choices; a browser that still has the old ones is left alone where nothing changed."""
    if select.options != options or select.value != value:
        select.param.update(options=options, value=value)


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Short names where they are not ambiguous."""
    brief = [short(name) for name in names]
    return {short(name) if brief.count(short(name)) == 1 else name: name for name in names}


def _select(label: str, **size: Any) -> Any:
    return pmui.Select(label=label, options=[], size="small", margin=(8, 8, 0, 0), **size)


def _field(label: str, example: str, width: int = 130) -> Any:
    return pmui.TextInput(
        label=label, placeholder=example, size="small", width=width, margin=(8, 16, 0, 0)
    )


def _download(name: str, make: Callable[[], io.BytesIO]) -> Any:
    button = pmui.FileDownload(
        callback=make, filename=name, label=f"Download {name.partition('.')[2]}", size="small",
        icon="table_view", margin=(8, 8, 4, 0),
    )  # fmt: skip
    button.variant = "outlined"  # its constructor warns about a word that it adds by itself
    return button
