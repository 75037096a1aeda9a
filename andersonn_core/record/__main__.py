"""`python -m andersonn_core.record`: measure this machine and write a recording of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from andersonn_core.problems.base import available_device
from andersonn_core.record.file import write
from andersonn_core.record.sections import record
from andersonn_core.record.settings import Settings
from andersonn_core.record.summary import summary
from andersonn_core.specs import KnobError

FOLDER = Path("assets") / "recordings"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(
        prog="python -m andersonn_core.record",
        description="Measure this machine's GPU beside its CPU and write a recording.",
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the file goes")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="how long it may take")
    parser.add_argument("--quick", action="store_true", help="a taste of each section, to try it")
    typed = parser.parse_args(words)
    if not 0 <= typed.minutes <= 1440:
        parser.error(f"--minutes {typed.minutes:g}: it must be between 0 and 1440.")
    return typed


def main(words: Sequence[str] | None = None) -> int:
    """Record; 1 where a section failed, 2 where the device is not there."""
    typed = arguments(words)
    try:
        device = available_device("cuda:0" if typed.device == "cuda" else typed.device)
    except KnobError as error:
        print(f"{error} (--device cpu records this machine's CPU.)", file=sys.stderr)
        return 2
    content = record(Settings(device, typed.quick), typed.minutes)
    path = write(content, typed.folder)
    for line in [*content["notes"], *summary(content)]:
        print(line)
    failed = [name for name, section in content["sections"].items() if section["failed"]]
    if failed:
        print(f"These sections failed and say why: {', '.join(failed)}.", file=sys.stderr)
    print(f"{path} in {content['seconds']:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
