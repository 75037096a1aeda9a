"""Large sweeps of the folder's stores are read, and what draws them compiled, before anybody asks.

A million rows take some seconds to be read and datashader six to be compiled, once in a server.
"""

from __future__ import annotations

import functools
import threading

from lab.later import call_later
from lab.sweeps import raster
from lab.sweeps.folder import path_of, stores
from lab.sweeps.library import LIBRARY

AFTER = 5.0  # seconds after the first visitor's page was built, which comes first


@functools.cache
def prepare_soon() -> None:
    """Begin a while after the first call, in a thread of its own; later calls do nothing."""
    thread = threading.Thread(target=prepare, name="sweeps ahead", daemon=True)
    call_later(AFTER, thread.start)


def prepare() -> None:
    """Read the newest sweep of each store, if it is large."""
    for name in stores():
        path = path_of(name)
        try:
            newest = next(iter(LIBRARY.listed(path)), None) if path.exists() else None
            if newest is not None and newest.done > raster.MANY:
                LIBRARY.sheet(path, newest)
                raster.prepare()
        except ValueError:  # StoreError, or a status that is none
            continue  # whoever opens it is told why
