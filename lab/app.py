"""`panel serve lab/app.py`: the dashboard."""

import panel as pn

pn.extension()

from lab.pauses import spare_imports  # noqa: E402
from lab.shell import Shell  # noqa: E402  widgets come after the extension
from lab.sweeps.ahead import prepare_soon  # noqa: E402

spare_imports()
shell = Shell(pn.state.curdoc)
pn.state.on_session_destroyed(lambda _, close=shell.close: close())
shell.page.servable()
prepare_soon()
