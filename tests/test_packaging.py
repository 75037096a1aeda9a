"""The project installs: its lists of dependencies agree, and a wheel works outside the checkout."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from andersonn_core import __version__

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())

CONDA_NAMES = {"torch": "pytorch"}
IN_CONDA = ("lab", "notebooks", "data", "sweeps")
IMPORT_NAMES = {
    "scikit-learn": "sklearn",
    "panel-material-ui": "panel_material_ui",
    "pyyaml": "yaml",
    "adbc-driver-sqlite": "adbc_driver_sqlite",
    "dask-jobqueue": "dask_jobqueue",
}


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def split(requirement: str) -> tuple[str, str]:
    """Take "numpy>=2,<3" apart into its name and its range; what follows `;` says where."""
    name, versions = re.fullmatch(r"([A-Za-z0-9._-]+)\s*([^;]*).*", requirement).groups()
    return re.sub(r"[-_.]+", "-", name).lower(), versions.replace(" ", "")


def dependencies(*extras: str) -> dict[str, str]:
    listed = [*PROJECT["dependencies"], *(each for extra in extras for each in EXTRAS[extra])]
    return dict(map(split, listed))


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it prints; show that when it fails."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_conda_environment_lists_the_dependencies_of_pyproject():
    ours = dependencies(*IN_CONDA)
    wanted = {CONDA_NAMES.get(name, name): versions for name, versions in ours.items()}
    plain = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    listed = dict(map(split, plain))
    assert listed.pop("python") == PROJECT["requires-python"]
    assert listed.pop("pip") == ""
    assert listed == wanted
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]


def test_conda_environment_installs_the_project_itself_with_the_extras_of_the_tests():
    (by_pip,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    assert by_pip == [f"-e .[{','.join([*IN_CONDA, 'test'])}]"]


def test_constraints_pin_every_direct_dependency_inside_its_range_and_torch_exactly():
    from packaging.specifiers import SpecifierSet

    pinned = pins()
    assert pinned["torch"] == "2.13.0"
    for name, versions in dependencies(*EXTRAS).items():
        assert pinned.get(name) in SpecifierSet(versions), name


def test_what_is_installed_is_what_the_constraints_say():
    from importlib.metadata import distributions

    if not Path(sys.prefix, "anderson-lab.json").exists():
        pytest.skip("not made by make: versions are free within their ranges")
    pinned, ours = pins(), {"anderson-lab", "pip"}
    for distribution in distributions():
        name, _ = split(distribution.metadata["Name"])
        if name not in ours:
            assert distribution.version.split("+")[0] == pinned.get(name), f"pin {name}"


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "andersonn_core/__init__.py"
    assert citation["version"] == __version__
    assert re.search(r"^## \[(Unreleased|" + re.escape(__version__) + ")]", changelog(), re.M)


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


def test_readme_says_why_each_direct_dependency_is_there():
    readme = (ROOT / "README.md").read_text()
    table = re.search(r"why each is there\n(.*?)(?:^#|\Z)", readme, re.M | re.S)
    assert table, "README needs its table of dependencies, under words like `why each is there`"
    rows = re.findall(r"^\|([^|]*)\|", table[1], re.M)
    named = {split(name)[0] for row in rows for name in re.findall(r"`([\w.-]+)`", row)}
    assert named == set(dependencies(*EXTRAS))


def third_party_imports(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    ours = {"andersonn_core", "lab", "tests", "benchmarks", "conftest", "cases"}
    return names - set(sys.stdlib_module_names) - ours - {p.stem for p in folder.rglob("*.py")}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("andersonn_core", ["bench", "data", "sweeps"]),
        ("lab", ["lab", "notebooks"]),
        # peers are asked where they are installed
        ("tests", ["lab", "data", "sweeps", "test", "bench"]),
        ("benchmarks", ["lab", "sweeps", "test", "bench"]),
    ],
)
def test_every_library_that_the_code_imports_is_a_declared_dependency(folder, extras):
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in dependencies(*extras)}
    # These come with a declared one (tqdm with panel, for the script that trains the digits model;
    # requests with pooch).
    declared |= {"pydantic_core", "packaging", "tornado", "triton", "IPython", "tqdm", "requests"}
    assert third_party_imports(ROOT / folder) <= declared


def test_make_lists_its_targets_and_names_an_unknown_build_of_torch():
    if not shutil.which("make"):
        pytest.skip("needs make")
    listing = run("make", cwd=ROOT)
    targets = "lab test notebooks bench bench-page bench-counts gpu-record lint clean help"
    for target in targets.split():
        assert re.search(rf"^make {target} +\w", listing, re.M), target
    command = [sys.executable, "setup_env.py", "--torch", "gpu", "lab"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1 and "TORCH is cpu or cuda, not 'gpu'" in answer.stderr


SOLVE_ELSEWHERE = """
import andersonn_core, lab, pathlib, sys
home = pathlib.Path(sys.argv[1])
assert home in pathlib.Path(andersonn_core.__file__).parents, andersonn_core.__file__
assert home in pathlib.Path(lab.__file__).parents, lab.__file__
assert (pathlib.Path(lab.__file__).parent / "recordings" / "README.md").exists()
assert andersonn_core.__version__ == sys.argv[2]
from andersonn_core import PROBLEMS, Anderson, solve
for name in ("affine", "digits_deq"):
    problem = PROBLEMS[name](batch_size=4, dtype="float32").build()
    result = solve(problem.f, problem.z0, Anderson(window=5), rtol=1e-4)
    assert bool(result.converged.all()), name
    print(name, result.num_evals)
"""


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory) -> Path:
    """A folder with our wheel; beside it the source that it was built from.

    Built from a copy, so that nothing is written into the checkout, with the installed build
    backend and the installed torch, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("wheels")
    source, wheels = folder / "source", folder / "wheelhouse"
    skip = shutil.ignore_patterns(".*", "__pycache__", "*.ipynb")
    shutil.copytree(ROOT, source, ignore=skip)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source, cwd=folder)
    return wheels


TRIAL_ELSEWHERE = """
import pathlib, sys
import andersonn_core
assert pathlib.Path(sys.argv[1]) in pathlib.Path(andersonn_core.__file__).parents
from andersonn_core import PROBLEMS, SolveSpec, Sweep
base = SolveSpec(problem=PROBLEMS["tanh"](size=16))
print(len(Sweep(base, {"method.window": [1, 2]}).run("serial", "sweep.sqlite", progress=False)))
"""


@pytest.mark.slow
def test_a_node_without_the_internet_installs_from_a_wheelhouse_and_runs_trials(
    wheelhouse, tmp_path
):
    """The wheels of the other libraries are those of the environment that runs this."""
    home, offline = tmp_path / "env", ("--no-index", "--find-links", wheelhouse)
    run(*PIP, "install", *offline, "--no-deps", "--target", home, "anderson-lab", cwd=tmp_path)
    code = f"import sys; sys.path.insert(0, {str(home)!r}){TRIAL_ELSEWHERE}"
    assert run(sys.executable, "-I", "-c", code, home, cwd=tmp_path).strip() == "2"
    dry = run(
        *PIP, "install", *offline, "--dry-run", "--ignore-installed", "--no-deps",
        "--report", "-", "--quiet", "anderson-lab[sweeps]", cwd=tmp_path,
    )  # fmt: skip
    (found,) = json.loads(dry)["install"]
    assert found["requested_extras"] == ["sweeps"]
    assert found["download_info"]["url"].startswith("file://")
    run(*PIP, "install", *offline, "--dry-run", "anderson-lab[sweeps]", cwd=tmp_path)


def test_the_commands_for_a_wheelhouse_are_those_that_are_tested():
    told = (ROOT / "assets" / "cluster" / "README.md").read_text()
    assert 'pip wheel -w wheelhouse ".[sweeps]"' in told
    assert 'pip install --no-index --find-links wheelhouse "anderson-lab[sweeps]"' in told
    listed = {split(entry)[0] for entry in EXTRAS["sweeps"]}
    assert {"sqlalchemy", "loky", "distributed", "dask-jobqueue"} <= listed


@pytest.mark.slow
def test_a_wheel_solves_outside_the_checkout(wheelhouse, tmp_path):
    source, home = wheelhouse.parent / "source", tmp_path / "installed"
    (wheel,) = wheelhouse.glob("anderson_lab-*.whl")
    run(*PIP, "install", "--no-deps", "--no-index", "--target", home, wheel, cwd=tmp_path)

    # -I ignores PYTHONPATH and the current folder: put the wheel's folder first by hand.
    code = f"import sys; sys.path.insert(0, {str(home)!r}){SOLVE_ELSEWHERE}"
    printed = run(sys.executable, "-I", "-c", code, home, __version__, cwd=tmp_path)
    assert printed.split()[::2] == ["affine", "digits_deq"]

    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("andersonn_core", "lab"):
        for path in (source / folder).rglob("*"):
            if path.is_file():
                assert path.relative_to(source).as_posix() in packed
    assert not any(name.startswith(("tests/", "benchmarks/", "notebooks/")) for name in packed)


@pytest.mark.slow
def test_ruff_finds_nothing():
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"]
    run(*ruff, ".", cwd=ROOT)


@pytest.mark.slow
def test_mypy_strict_finds_nothing_in_the_core(tmp_path):
    assert PYPROJECT["tool"]["mypy"]["strict"] is True
    run(sys.executable, "-m", "mypy", "--cache-dir", tmp_path, cwd=ROOT)
