"""Fewer pauses: the garbage collector need not look through what lives as long as the server."""

import functools
import gc


@functools.cache
def spare_imports() -> None:
    """Take everything that was imported out of later collections; only the first call counts.

    With torch and Panel in memory a full collection is a pause that visitors notice.
    """
    gc.collect()
    gc.freeze()
