"""The line above recorded numbers: whose they are, when they were taken, with which versions."""

from __future__ import annotations

import panel as pn

from lab.pages.card import escape, text
from lab.recordings import Recording


class Banner(pn.viewable.Viewer):
    """Shown while the card below shows numbers of a recording."""

    def __init__(self) -> None:
        super().__init__()
        self.pane = text("", "lab-recorded", visible=False)

    def tell(self, recording: Recording | None) -> None:
        """Name a recording; None: nothing of the kind is shown."""
        if recording is not None:
            self.pane.object = f"<p class='recorded'>{escape(recording.label)}</p>"
        self.pane.visible = recording is not None

    def __panel__(self) -> pn.viewable.Viewable:
        return self.pane
