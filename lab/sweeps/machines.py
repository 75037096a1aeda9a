"""Which machine and which code made a trial: seconds of two of them are no comparison."""

from __future__ import annotations

import pandas as pd


def machines(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Machine and code version by words, the most frequent first.

    The words stay while a sweep grows: a browser may answer with those of a moment ago.
    """
    if frame.empty:
        return {}
    names = [name for name in ("device", "code") if name in frame]
    if not names:
        return {}
    several = {name: frame[name].nunique(dropna=False) > 1 for name in names}
    if any(several.values()):
        counts = frame.groupby(names, dropna=False, sort=False, observed=True).size()
        counts = counts.sort_values(ascending=False, kind="stable")
    else:  # a million trials take a tenth of a second to be grouped
        counts = pd.Series({tuple(frame[name].iloc[0] for name in names): len(frame)})
    found = {}
    for key in counts.index:
        device, code = _pair(key, names)
        words = device or "unknown machine"
        words += f", code {code[:8]}" if several.get("code") else ""
        found[words] = (device, code)
    return found


def _pair(key: object, names: list[str]) -> tuple[str, str]:
    parts = dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True))
    texts = ["" if pd.isna(each) else str(each) for each in parts.values()]
    known = dict(zip(parts, texts, strict=True))
    return known.get("device", ""), known.get("code", "")


def of_machine(frame: pd.DataFrame, machine: tuple[str, str]) -> pd.DataFrame:
    """The trials of one machine and code version."""
    keep = pd.Series(True, index=frame.index)
    for name, wanted in zip(("device", "code"), machine, strict=True):
        if name in frame:
            keep &= (
                frame[name].fillna("").astype(str) == wanted if wanted else _unknown(frame[name])
            )
    return frame[keep]


def _unknown(column: pd.Series) -> pd.Series:
    return column.isna() | (column.astype(str) == "")


def mixed_words(found: dict[str, tuple[str, str]], shown: str) -> str:
    """Why only a part of the trials is shown; empty if all of them are of one machine and code."""
    if len(found) <= 1:
        return ""
    devices = len({device for device, _ in found.values()})
    what = f"{devices} machines" if devices > 1 else f"{len(found)} versions of the code"
    return (
        f"These trials come from {what}, whose seconds do not compare: shown are those of {shown}."
    )
