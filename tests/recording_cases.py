"""Recordings for tests: quick ones of this CPU, and copies that are relabeled as a GPU's.

They live in temporary folders only; no number of a GPU is made up.
"""

import copy
import json
from pathlib import Path

import pytest
import torch

from andersonn_core.record import sections
from andersonn_core.record.settings import Settings
from andersonn_core.seal import digest

GPU = "GPU of a test"
SHOWN = ("timing", "crossover", "curves")  # what the dashboard reads


def quick_recording() -> dict:
    """The content of a quick recording of this CPU, with the sections that the dashboard reads."""
    with pytest.MonkeyPatch.context() as patch:
        few = {name: (sections.SECTIONS[name][0], 1.0) for name in SHOWN}
        patch.setattr(sections, "SECTIONS", few)
        quick = Settings(torch.device("cpu"), quick=True)
        return sections.record(quick, 5.0, tell=lambda line: None)


def relabeled(content: dict, device: str = GPU) -> dict:
    """A copy in which each row stands twice: as it was, and with the name of a GPU."""
    content = copy.deepcopy(content) | {"device": device, "gpu": True}
    groups = [section["rows"] for section in content["sections"].values()]
    for rows in (*groups, *(run["rows"] for run in content["runs"].values())):
        rows += [copy.deepcopy(row) | {"device": device, "gpu": True} for row in rows]
    content["environment"] |= {"cuda": "13.0", "driver": None}
    return content


def put(content: dict, folder: Path, name: str = "a.json", **changes) -> Path:
    """Write a recording whose digest is right."""
    content = json.loads(json.dumps(content)) | changes
    path = folder / name
    path.write_text(json.dumps(content | {"sha256": digest(content)}))
    return path


def alter(path: Path) -> None:
    """Make a recording's first timing half as long, and leave its digest as it was."""
    content = json.loads(path.read_text())
    next(iter(content["runs"].values()))["rows"][0]["map_seconds"] *= 0.5
    path.write_text(json.dumps(content))
