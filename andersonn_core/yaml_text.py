"""YAML as people mean it: YAML 1.2's numbers and switches, each key once, plain data only.

PyYAML reads YAML 1.1, where 1:16 is 76, 1e-3 is a text and "no" is False, and where the last of two
equal keys wins.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from andersonn_core.specs import KnobError

PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # no types of its own
    """SafeLoader, but for the numbers and the keys that are given twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys differ."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if twice is not None:
            line = node.start_mark.line + 1
            raise KnobError(f"the key {twice!r} is given twice, in the block at line {line}.")
        return dict(super().construct_mapping(node, deep))


for _tag, (_pattern, _first) in PLAIN.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"(?:{_pattern})$"),
        [*_first, *([""] if _tag == "null" else [])],
    )
# PyYAML takes 010 for 8
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def parse_yaml(text: str) -> Any:
    """The plain data of a YAML text; KnobError for what is none, or tags that would run code."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader that refuses more
    except yaml.YAMLError as error:
        raise KnobError(" ".join(str(error).split())) from None


def read_yaml(path: str | Path) -> Any:
    """The plain data in a YAML file; KnobError that names the file."""
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (KnobError, UnicodeDecodeError) as error:
        raise KnobError(f"{path}: {error}") from None
