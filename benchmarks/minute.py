"""One driver and three readers on one store for a minute: two programs, and the dashboard.

Each program prints what it wrote or read as one line of JSON; any error ends it with a traceback.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from andersonn_core import PROBLEMS, Anderson, SolveSpec, Sweep
from andersonn_core.store import Store, StoreError

ROOT = Path(__file__).resolve().parents[1]
NAME, SECONDS = "minute.sqlite", 60.0
AXES = {"method.window": range(1, 16), "method.mixing": [0.4, 0.6, 0.8, 1.0]}


def drive(path: Path, seconds: float) -> dict[str, int]:
    """Run trials of a sweep that is far from its end when the time is over."""
    base = SolveSpec(
        problem=PROBLEMS["tanh"](size=16, batch_size=4), method=Anderson(), rtol=1e-6, max_iter=100
    )
    end = time.monotonic() + seconds
    frame = Sweep(base, AXES, repeats=20, seeds=range(20)).run(
        "serial", path, progress=False, yes=True, should_stop=lambda: time.monotonic() > end
    )
    with Store(path) as store:
        store.check()
    return {"trials written": len(frame)}


def read(path: Path, seconds: float) -> dict[str, int]:
    """Read as a program does: the list, all rows, the rows of one spec, cards, curves."""
    counts = {"looks": 0, "rows": 0, "cards": 0, "curves": 0}
    end, before = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with Store(path, read_only=True) as store:
            rows = store.members(int(store.sweeps()["sweep"].iloc[0]))
            assert len(rows) >= before and not rows["number"].duplicated().any()
            before = len(rows)
            counts["looks"] += 1
            if before:
                same = store.rows(rows["spec_id"].iloc[-1])
                newest = rows["row"].tail(20).tolist()
                counts["rows"] += len(rows) + len(same)
                counts["curves"] += len(store.results(newest))
                counts["cards"] += store.card(newest[-1]).seed is not None
        time.sleep(0.1)
    return counts


def look(path: Path, seconds: float) -> dict[str, int]:
    """Read as the dashboard's server does."""
    import lab.shell  # noqa: F401  all of the lab, as a server has it
    from lab.sweeps.library import LIBRARY
    from lab.sweeps.reading import POLL, read_curves

    counts = {"looks": 0, "rows": 0, "curves": 0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sheet = LIBRARY.sheet(path, LIBRARY.listed(path)[0])
        counts["looks"] += 1
        counts["rows"] += len(sheet.frame)
        counts["curves"] += read_curves(path, sheet.frame["row"].tolist(), 200)["row"].nunique()
        time.sleep(POLL)
    return counts


ROLES: dict[str, Callable[[Path, float], dict[str, int]]] = {
    "driver": drive, "program": read, "dashboard": look,
}  # fmt: skip


def started(role: str, path: Path) -> subprocess.Popen[str]:
    """A program of a role, for SECONDS."""
    command = [sys.executable, "-m", "benchmarks.minute", role, str(path)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def shared(folder: Path, browser: Any, url: str) -> bool:
    """Let them work on one store, with its page open; print counts and whether all went well."""
    path, sound = folder / NAME, True
    for each in folder.glob(f"{NAME}*"):  # of another run in a folder that is kept
        each.unlink()
    programs = {"driver": started("driver", path)}
    while programs["driver"].poll() is None and not _begun(path):
        time.sleep(0.2)
    programs |= {role: started(role, path) for role in ("program", "dashboard")}
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{url}/app?page=Sweeps&store={NAME}", wait_until="commit", timeout=120_000)
    seen: set[str] = set()
    while programs["driver"].poll() is None:
        seen |= set(
            page.locator(".lab-verdict p").filter(has_text="are computed").all_inner_texts()
        )
        page.wait_for_timeout(250)
    for role, program in programs.items():
        out, errors = program.communicate(timeout=120)
        counts = ", ".join(f"{n:,} {what}" for what, n in json.loads(out or "{}").items())
        print(f"{role:<12} {counts or errors}")
        sound &= program.returncode == 0
    print(f"{'page':<12} {len(seen)} states seen, errors: {len(faults)} {faults[:3]}")
    return sound and len(seen) > 1 and not faults


def _begun(path: Path) -> bool:
    try:
        with Store(path, read_only=True) as store:
            return bool(store.sweeps()["done"].sum())
    except StoreError:  # the driver has not made it yet
        return False


if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](Path(sys.argv[2]), SECONDS)))
