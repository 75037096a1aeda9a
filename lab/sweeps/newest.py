"""Work in a thread of its own for a page that wants the newest answer only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lab.pages.convergence import Schedule

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Newest:
    """Reads one thing after another; what is asked for later replaces what was asked for before.

    Without a `schedule` everything happens at once. `failed` is told what went wrong.
    """

    def __init__(
        self, name: str, schedule: Schedule | None, failed: Callable[[Exception], None]
    ) -> None:
        self._schedule, self._failed, self._request = schedule, failed, 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def ask(self, read: Callable[[], T], arrived: Callable[[T], None]) -> None:
        """Read, and tell on the page's thread what was read, unless another was asked for."""
        self._request += 1
        if self._schedule is None:
            arrived(read())
        else:
            self._pool.submit(self._work, self._request, self._schedule, read, arrived)

    def _work(
        self,
        request: int,
        schedule: Schedule,
        read: Callable[[], T],
        arrived: Callable[[T], None],
    ) -> None:
        if request != self._request:
            return
        try:
            found = read()
        except Exception as error:
            LOG.exception("Something for a page could not be read.")
            told = error  # the name `error` ends with this block
            schedule(lambda: self._failed(told))
        else:
            schedule(lambda: self._tell(request, arrived, found))

    def _tell(self, request: int, arrived: Callable[[T], None], found: T) -> None:
        if request == self._request:
            arrived(found)

    def close(self) -> None:
        """The visitor has left: read no more."""
        self._request += 1
        self._pool.shutdown(wait=False, cancel_futures=True)
