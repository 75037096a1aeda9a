"""Create or refresh .venv, and do nothing when it is already right.

`make` calls this file with the python3 it finds: `python3 setup_env.py --torch cpu lab,test`.
It needs only the standard library, and its syntax is old on purpose, so that an old python3 can
say what is wrong instead of failing on it. Whatever goes wrong ends in one sentence.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "anderson-lab.json"  # written last: a folder without it is not used
INPUTS = ("pyproject.toml", "constraints.txt")

# PyTorch's own index of builds without CUDA; PyPI's build for Linux brings several GB of it.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_GB = {"cpu": 2.5, "cuda": 8.0}

WRONG_VERSION, NO_VENV = 3, 4
PROBE = (
    "import sys\n"
    f"if not (3, 11) <= sys.version_info[:2] <= (3, 13): sys.exit({WRONG_VERSION})\n"
    "try: import venv, ensurepip\n"
    f"except ImportError: sys.exit({NO_VENV})\n"
)


def stop(sentence: str) -> None:
    """End with one sentence and a nonzero exit status."""
    sys.exit("anderson-lab: " + sentence)


def suitable_python() -> str:
    """Return the first Python on PATH, this one preferred, that can make our environment."""
    answers = {}
    for name in (sys.executable, "python3.13", "python3.12", "python3.11"):
        if name and shutil.which(name):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            answers[name] = subprocess.call([name, "-c", PROBE], **quiet)
            if answers[name] == 0:
                return name
    without_venv = [name for name, answer in answers.items() if answer == NO_VENV]
    if without_venv:
        stop(
            f"{without_venv[0]} comes without venv and ensurepip, which make the environment; "
            "install them (Debian and Ubuntu: apt install python3-venv) and run make again."
        )
    stop(
        f"needs Python 3.11, 3.12 or 3.13, but this is {sys.version.split()[0]}; install one of "
        "them, or name it: make lab PYTHON=/path/to/python3.12"
    )


def torch_build(asked: str, stamp: dict) -> str:
    """Return cpu or cuda: as asked, else as installed, else by whether there is an NVIDIA GPU."""
    if asked not in ("", "cpu", "cuda"):
        stop(f"TORCH is cpu or cuda, not {asked!r}; leave it out to let the machine decide.")
    if asked or stamp:
        return asked or stamp["torch"]
    return "cuda" if shutil.which("nvidia-smi") else "cpu"


def reachable(url: str, seconds: float = 4.0) -> bool:
    """Tell whether a server answers soon; pip itself would retry for more than a minute."""
    found = []

    def ask() -> None:
        try:
            found.append(urllib.request.urlopen(url, timeout=seconds).status == 200)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)  # looking a name up has no timeout
    thread.start()
    thread.join(seconds)
    return any(found)


def torch_index(build: str) -> list:
    """Return pip's options for the asked build of torch."""
    if build == "cuda" or sys.platform != "linux" or os.environ.get("PIP_NO_INDEX"):
        return []  # the package index's own build is the right one
    if reachable(CPU_INDEX + "/torch/"):
        return ["--extra-index-url", CPU_INDEX]
    print(
        "anderson-lab: PyTorch's index of CPU builds doesn't answer; taking the torch that pip "
        "finds (from PyPI that is the CUDA build: more to download, works as well)."
    )
    return []


def check_disk(build: str) -> None:
    """Stop before an installation that would fill the disk half-way."""
    free_gb = shutil.disk_usage(str(ROOT)).free / 1e9
    if free_gb < NEEDED_GB[build]:
        stop(
            f"installing needs {NEEDED_GB[build]} GB of disk (TORCH={build}), but {ROOT} has "
            f"{free_gb:.1f} GB free; make room, then run make again."
        )


def pip_install(*arguments: str) -> None:
    """Install into .venv under the pinned versions; the user's own PIP_* settings hold."""
    scratch = VENV / "tmp"  # pip unpacks here, on the disk that was checked: /tmp can be small
    scratch.mkdir(exist_ok=True)
    env = dict(os.environ)
    env.setdefault("TMPDIR", str(scratch))
    pip = [str(VENV_PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    status = subprocess.call(pip + ["-c", "constraints.txt"] + list(arguments), cwd=ROOT, env=env)
    shutil.rmtree(str(scratch), ignore_errors=True)
    if status:
        stop(
            "pip could not install the packages, its own words are above (no network? disk full? "
            "no torch for this kind of machine?); nothing half-installed will be used: "
            "put it right and run make again."
        )


def read_stamp() -> dict:
    """Return what .venv holds, or nothing where it is missing, broken or was moved here."""
    try:
        stamp = json.loads(STAMP.read_text())
        runs = subprocess.call([str(VENV_PYTHON), "-c", ""]) == 0
        return stamp if runs and stamp["folder"] == str(ROOT) else {}
    except (OSError, ValueError, KeyError):
        return {}


def install(extras: set, asked_torch: str) -> None:
    """Make .venv hold the project with these extras (and those it has already)."""
    stamp = read_stamp()
    build = torch_build(asked_torch, stamp)
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in INPUTS)).hexdigest()
    fresh = not stamp or stamp["torch"] != build  # pip alone won't exchange torch's build
    if not fresh and stamp["inputs"] == digest and extras <= set(stamp["extras"]):
        return

    python = suitable_python()
    if STAMP.exists():
        STAMP.unlink()
    if fresh:
        check_disk(build)
        print(f"anderson-lab: setting up .venv, once (torch for {build.upper()})", flush=True)
        if subprocess.call([python, "-m", "venv", "--clear", str(VENV)]):
            stop(f"could not make {VENV}, the reason is above; put it right, run make again.")
    else:
        extras = extras | set(stamp["extras"])
    pip_install("--quiet", "hatchling")  # our build backend, pinned like everything else
    target = ",".join(sorted(extras))
    pip_install("--no-build-isolation", *torch_index(build), "-e", f".[{target}]")
    print("anderson-lab: compiling the solvers' loops, once", flush=True)
    subprocess.call([str(VENV_PYTHON), "-m", "andersonn_core.kernels"], cwd=ROOT)
    record = {"folder": str(ROOT), "torch": build, "inputs": digest, "extras": sorted(extras)}
    STAMP.write_text(json.dumps(record, indent=1) + "\n")


def free_port(first: int) -> int:
    """Return the first port from `first` on that nobody listens on."""
    if not 1 <= first <= 65535:
        stop(f"PORT is a number from 1 to 65535, not {first}.")
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    stop(f"no free port from {first} on; name another one: make lab PORT=8000")


def main() -> None:
    """Read the command line; one set-up at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="?", default="", help="lab,notebooks,data,test,bench")
    parser.add_argument("--torch", default="", help="cpu or cuda; the machine decides without")
    parser.add_argument("--free-port", type=int, metavar="FIRST", help="print a free port instead")
    arguments = parser.parse_args()
    if arguments.free_port is not None:
        print(free_port(arguments.free_port))
        return
    with open(__file__) as lock:  # a second `make` in another terminal waits for the first
        fcntl.flock(lock, fcntl.LOCK_EX)
        install(set(arguments.extras.split(",")) - {""}, arguments.torch)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        stop("interrupted; run make again and it starts over.")
