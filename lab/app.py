"""`panel serve lab/app.py`: controls, page and shell."""

import panel as pn
import panel_material_ui as pmui

pn.extension()

from lab.controls import Controls  # noqa: E402
from lab.pages import Convergence  # noqa: E402
from lab.runner import Runner, presence  # noqa: E402
from lab.theme import material_theme, palette  # noqa: E402

doc = pn.state.curdoc
controls = Controls()
view = Convergence(
    controls, palette(pn.config.theme == "dark"),
    lambda publish: Runner(publish, doc.add_next_tick_callback, presence(doc)),
)  # fmt: skip
page = pmui.Page(
    title="Anderson Lab", sidebar=[view.rail], main=[view], sidebar_width=300, theme_config=material_theme(),
    sidebar_resizable=False, busy_indicator=None,
)  # fmt: skip
page._custom_theme = ["Axis", "Grid", "Figure", "Plot", "Title", "ColorBar"]
page.param.watch(lambda event: view.paint(palette(event.new)), "dark_theme")
view.submit()
page.servable()
