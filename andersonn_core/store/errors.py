"""What can be wrong with a store, each in a sentence that says what to do."""

from __future__ import annotations


class StoreError(ValueError):
    """A store cannot be read or written; nothing in it was changed."""


class DamagedStoreError(StoreError):
    """The file is no store, or a damaged one; a copy of it was kept."""


class NewerStoreError(StoreError):
    """The store was made by a newer version of this program."""


class UnsafePlaceError(StoreError):
    """On this file system two programs could write at once without noticing each other."""
