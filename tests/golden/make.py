"""Record golden traces: Anderson acceleration by SciPy, PETSc and SUNDIALS KINSOL on three maps.

    python tests/golden/make.py scipy           # in the environment of the tests
    python3 tests/golden/make.py petsc kinsol   # Debian: python3-petsc4py, libsundials-dev

A trace is where a peer evaluates f, in order, and ||f(z) - z|| there. All three evaluate f once an
iteration, so that the k-th point is the k-th iterate, whatever the peer calls it and whatever it
returns. NAME.json holds every number as `repr` writes it, with up to 17 digits: it is read back bit
for bit. (KINSOL says on the terminal that it met no tolerance. It was given none.)

The maps give the same bits everywhere: they take + - * / alone, and add with `math.fsum`, which
rounds once, so that neither the order of the terms nor the version of Python matters. A cosine's
last digit would be one library's own.

`tests/test_golden.py` compares the traces with ours and says where the definitions coincide.
"""

import ctypes
import json
import math
import platform
import sys
from collections.abc import Callable
from ctypes.util import find_library
from datetime import date
from importlib import import_module  # the peers: dependencies of this script, not of the project
from pathlib import Path
from typing import Any

State = list[float]
Map = Callable[[State], State]

HERE = Path(__file__).resolve().parent
EVALUATIONS = 13  # at the start, and of 12 iterations

# map, window, mixing
ALL: list[tuple[Any, ...]] = [
    ("affine", 3, 1.0),
    ("chandrasekhar", 3, 1.0),
    ("poisson", 3, 1.0),
    ("chandrasekhar", 3, 0.5),
    ("chandrasekhar", 8, 1.0),  # its least-squares problems become singular
]
# and a run with a peer's own default of an option that has to be known of
RUNS = {
    "scipy": [*ALL, ("chandrasekhar", 3, 1.0, 0.01)],
    "petsc": ALL,
    "kinsol": [*ALL, ("chandrasekhar", 3, 0.5, 1.0)],
}


# -- the maps -------------------------------------------------------------------------------------


def affine(z: State) -> State:
    """Upper triangular, so its eigenvalues are its diagonal: .9, .75, ..., -.75; not symmetric."""
    n = len(z)
    return [
        math.fsum(
            [1.0, (0.9 - 0.15 * i) * z[i], *(0.125 * z[j] / (1 + j - i) for j in range(i + 1, n))]
        )
        for i in range(n)
    ]


def chandrasekhar(z: State) -> State:
    """Chandrasekhar's H-equation by the midpoint rule, c = .999."""
    n = len(z)
    mu = [(i + 0.5) / n for i in range(n)]
    return [
        1 / (1 - 0.999 / (2 * n) * math.fsum(mu[i] * z[j] / (mu[i] + mu[j]) for j in range(n)))
        for i in range(n)
    ]


def poisson(z: State) -> State:
    """Jacobi's iteration for the five-point Laplacian on a square grid, with a lopsided source."""
    side = math.isqrt(len(z))
    grid = {(i, j): z[side * i + j] for i in range(side) for j in range(side)}
    around = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    return [
        math.fsum([1 + i + j * j / 4, *(grid.get((i + a, j + b), 0.0) for a, b in around)]) / 4
        for i, j in grid
    ]


MAPS: dict[str, tuple[Map, State]] = {  # with their starts
    "affine": (affine, [0.0] * 12),
    "chandrasekhar": (chandrasekhar, [1.0] * 20),
    "poisson": (poisson, [0.0] * 64),
}


def residual_norm(z: State, f_z: State) -> float:
    """||f(z) - z||."""
    return math.sqrt(math.fsum((b - a) * (b - a) for a, b in zip(z, f_z, strict=True)))


class Watched:
    """A map that remembers where it was evaluated."""

    def __init__(self, f: Map) -> None:
        self.f = f
        self.points: list[State] = []
        self.residuals: list[float] = []

    def __call__(self, z: Any) -> State:
        self.points.append([float(x) for x in z])
        value = self.f(self.points[-1])
        self.residuals.append(residual_norm(self.points[-1], value))
        return value


# -- the peers: each evaluates f EVALUATIONS times and says with what options ----------------------


def run_scipy(
    f: Watched, start: State, window: int, mixing: float, w0: float = 0.0
) -> dict[str, Any]:
    """Its F is f(z) - z and its first Jacobian -1 / alpha, so that alpha is our mixing."""
    numpy, optimize = import_module("numpy"), import_module("scipy.optimize")
    options = {"M": window, "alpha": mixing, "w0": w0, "line_search": None, "f_tol": 0.0}
    try:
        optimize.anderson(
            lambda z: f(z) - z, numpy.array(start), maxiter=EVALUATIONS - 1, **options
        )
    except optimize.NoConvergence:
        pass  # it was given no tolerance
    return options


def run_petsc(f: Watched, start: State, window: int, mixing: float) -> dict[str, Any]:
    """Its F is z - f(z); m counts the stored points, the newest one not among them."""
    PETSc = import_module("petsc4py.PETSc")

    def function(snes: Any, z: Any, out: Any) -> None:
        out.setArray(z.getArray(readonly=True) - f(z.getArray(readonly=True)))

    options = {"snes_type": "anderson", "snes_anderson_m": window, "snes_anderson_beta": mixing}
    for name, value in options.items():
        PETSc.Options().setValue(name, value)
    z = PETSc.Vec().createWithArray(list(start), comm=PETSc.COMM_SELF)
    snes = PETSc.SNES().create(PETSc.COMM_SELF)
    snes.setFunction(function, z.duplicate())
    snes.setFromOptions()
    snes.setTolerances(rtol=0.0, atol=0.0, stol=0.0, max_it=EVALUATIONS - 1)
    snes.solve(None, z)
    return options


def run_kinsol(
    f: Watched, start: State, window: int, mixing: float, first: float | None = None
) -> dict[str, Any]:
    """Its fixed-point strategy; `first` is KINSetDamping, which its very first step reads too."""
    kin, n, context = kinsol_library(), len(start), ctypes.c_void_p()

    def entries(vector: int) -> Any:
        return (ctypes.c_double * n).from_address(kin.N_VGetArrayPointer(ctypes.c_void_p(vector)))

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    def function(z: int, out: int, _: Any) -> int:
        entries(out)[:] = f(entries(z))
        return 0

    kin.SUNContext_Create(None, ctypes.byref(context))
    room = [(ctypes.c_double * n)(*values) for values in (start, [1.0] * n)]
    z, ones = (ctypes.c_void_p(kin.N_VMake_Serial(ctypes.c_int64(n), a, context)) for a in room)
    memory = ctypes.c_void_p(kin.KINCreate(context))
    options = {"KINSetNumMaxIters": EVALUATIONS, "KINSetMAA": window, "KINSetDampingAA": mixing}
    options |= {"KINSetDamping": mixing if first is None else first, "KINSetFuncNormTol": 1e-300}
    for name, value in options.items():
        kind = ctypes.c_long if isinstance(value, int) else ctypes.c_double
        assert getattr(kin, name)(memory, kind(value)) == 0, name
    assert kin.KINInit(memory, function, z) == 0
    kin.KINSol(memory, z, KIN_FP, ones, ones)
    return {"strategy": "KIN_FP", **options}


KIN_FP = 3
PEERS: dict[str, Callable[..., dict[str, Any]]] = {
    "scipy": run_scipy,
    "petsc": run_petsc,
    "kinsol": run_kinsol,
}


def kinsol_library() -> Any:
    """KINSOL as a shared library, vectors included."""
    library = ctypes.CDLL(find_library("sundials_kinsol"))
    for name in ("KINCreate", "N_VMake_Serial", "N_VGetArrayPointer"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


# -- the files ------------------------------------------------------------------------------------


def versions(peer: str) -> dict[str, str]:
    """Whose arithmetic it is."""
    python = {"Python": platform.python_version(), "machine": platform.machine()}
    if peer == "scipy":
        scipy, numpy = import_module("scipy"), import_module("numpy")
        return {"SciPy": scipy.__version__, "NumPy": numpy.__version__, **python}
    if peer == "petsc":
        version = import_module("petsc4py.PETSc").Sys.getVersion()
        return {"PETSc": ".".join(map(str, version)), **python}
    text = ctypes.create_string_buffer(32)
    kinsol_library().SUNDIALSGetVersion(text, 32)
    return {"SUNDIALS": text.value.decode(), **python}


def trace(peer: str, name: str, window: int, mixing: float, *more: float) -> dict[str, Any]:
    """One run of a peer on a map."""
    f, start = MAPS[name]
    watched = Watched(f)
    options = PEERS[peer](watched, start, window, mixing, *more)
    assert len(watched.points) == EVALUATIONS, f"{peer}, {name}: {len(watched.points)}"
    run = {"map": name, "window": window, "mixing": mixing, "options": options}
    return run | {"residuals": watched.residuals, "iterates": watched.points}


def write(peer: str) -> None:
    """All runs of a peer, one line for each iterate."""
    head = {"peer": peer, "versions": versions(peer), "date": date.today().isoformat()}
    text = json.dumps(head | {"runs": [trace(peer, *run) for run in RUNS[peer]]})
    for place in (' {"map"', ' "residuals"', ' "iterates"', " ["):
        text = text.replace("," + place, ",\n" + place[1:])
    (HERE / f"{peer}.json").write_text(text.replace("[{", "[\n{").replace("[[", "[\n[") + "\n")


if __name__ == "__main__":
    for peer in sys.argv[1:] or sys.exit(__doc__):
        write(peer)
