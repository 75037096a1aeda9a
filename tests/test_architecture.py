"""Imports go one way, the core stays light, and no file is tied to one machine."""

import ast
import graphlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lab
from andersonn_core import __version__

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "andersonn_core"

# A module may import those above it or to its left. A new module takes its place here and in the
# README's map of the repository.
ORDER = """
    arrays cache compiling faults specs seal results runcard card_diff words student layout memory
    sharding least_squares
    timing cost_model machine work cells data models weights
    kernels methods problems
    referee recorder outcome driver device solve
    staircase comparable paired crossover prediction curves polynomial roofline deq optimizers
    training rerun
    yaml_text store sweeps
    report options card_command train_command sweep_command store_command record torchdeq_plugin
    __main__
""".split()

# (importer, imported): why this one arrow points the wrong way, at call time only.
EXCEPTIONS = {
    ("results", "runcard"): "`SolveResult.load` reads its card; a card is made from a result",
}

# Programs that make weights or data stand outside the order, and nothing imports them.
PROGRAMS = {"weights/train_digits.py"}

# Functions in Triton's language need it where they are defined; nothing else imports it early.
IN_TRITON = tuple(f"device/triton_{name}.py" for name in "small folding loops kernels".split())

# What is imported where a sweep runs or a store is opened may import its library where it begins.
WITH_A_SWEEP = {
    "store/compare.py": {"sqlalchemy"},
    "store/curves.py": {"pyarrow"},
    "store/frames.py": {"sqlalchemy"},
    "store/opening.py": {"sqlalchemy"},
    "store/place.py": {"psutil"},
    "store/schema.py": {"sqlalchemy"},
    "store/store.py": {"sqlalchemy"},
    "sweeps/engines/dask.py": {"distributed"},
    "sweeps/engines/processes.py": {"loky"},
    "yaml_text.py": {"yaml"},
}

AT_IMPORT_ONLY = {"torch", "numpy", "pandas", "pydantic", "pydantic_core"}
AT_THE_COMMAND_LINE = {
    "report",
    "options",
    "card_command",
    "train_command",
    "sweep_command",
    "store_command",
    "torchdeq_plugin",
    "__main__",
}  # the package doesn't import them
NOT_BY_THE_CORE = "panel bokeh holoviews param sklearn scipy typer rich".split()
WITH_THE_FIRST_SWEEP = "sqlalchemy adbc_driver_sqlite loky distributed dask optuna yaml".split()
WITH_THE_FIRST_SOLVE = "numba llvmlite".split()
WITH_TORCH_COMPILE = ["torch._dynamo"]  # takes longer to load than all the rest

CORE_FILES = sorted(path for path in CORE.rglob("*.py") if "__pycache__" not in path.parts)


def name(path: Path) -> str:
    return path.relative_to(CORE).as_posix()


def module(path: Path) -> str:
    """The place in ORDER that a file of the core belongs to."""
    return name(path).split("/")[0].removesuffix(".py")


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST, inside_functions: bool) -> list[ast.AST]:
    """All statements below a node that run: at import, or (inside functions) when called."""
    found = []
    for child in ast.iter_child_nodes(node):
        if is_for_types_only(child):
            continue
        if inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [child, *statements(child, inside_functions)]
    return found


def imports(path: Path, inside_functions: bool = True) -> set[str]:
    """Dotted names that a file imports, names taken from a module included: `a.b.name`."""
    names = set()
    package = path.relative_to(ROOT).parent.parts
    for node in statements(ast.parse(path.read_text()), inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*up, node.module] if node.module else up)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def arrows(path: Path) -> set[str]:
    """The modules of the core that a file imports, by their place in ORDER."""
    ours = {target for target in imports(path) if target.split(".")[0] == "andersonn_core"}
    return {target.split(".")[1] for target in ours if "." in target} - {"__version__"}


def test_every_module_of_the_core_has_a_place_in_the_order():
    for path in CORE_FILES:
        assert module(path) in [*ORDER, "__init__"], f"give {name(path)} its place in ORDER"


def test_imports_in_the_core_go_one_way():
    wrong = []
    for path in CORE_FILES:
        here = module(path)
        if here == "__init__" or name(path) in PROGRAMS:
            continue
        for target in arrows(path) - {here}:
            allowed = target in ORDER and ORDER.index(target) < ORDER.index(here)
            if not allowed and (here, target) not in EXCEPTIONS:
                wrong.append(f"{name(path)} imports {target}")
    assert not wrong, wrong


def test_every_exception_is_still_needed_and_not_made_at_import():
    for here, target in EXCEPTIONS:
        files = [path for path in CORE_FILES if module(path) == here]
        assert any(target in arrows(path) for path in files), f"drop {here} -> {target}"
        at_import = set().union(*(imports(path, inside_functions=False) for path in files))
        assert not any(used.startswith(f"andersonn_core.{target}") for used in at_import)


def test_the_package_imports_nothing_of_the_command_line():
    for path in CORE_FILES:
        if module(path) not in AT_THE_COMMAND_LINE:
            assert not arrows(path) & AT_THE_COMMAND_LINE, name(path)


def test_nothing_imports_a_program_that_makes_weights_or_data():
    for program in PROGRAMS:
        dotted = "andersonn_core." + program.removesuffix(".py").replace("/", ".")
        for path in CORE_FILES:
            assert not any(used.startswith(dotted) for used in imports(path)), name(path)


def test_the_core_never_imports_the_lab():
    for path in CORE_FILES:
        tops = {used.split(".")[0] for used in imports(path)}
        assert not tops & {"lab", "tests", "benchmarks", "notebooks"}, name(path)
        assert not tops & {"panel", "panel_material_ui", "bokeh", "holoviews", "param"}, name(path)


def test_no_module_of_the_lab_needs_one_that_needs_it():
    """Packages are modules, too: importing lab.pages.card runs lab/pages/__init__.py."""
    paths = sorted((ROOT / "lab").rglob("*.py"))
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    named = {key.removesuffix(".__init__"): path for key, path in named.items()}
    needs = {}
    for key, path in named.items():
        names = imports(path, inside_functions=False)
        parents = {each.rpartition(".")[0] for each in names}
        packages = {each.rpartition(".")[0] for each in parents}
        needs[key] = (names | parents | packages) & named.keys() - {key}
    graphlib.TopologicalSorter(needs).prepare()  # CycleError names the circle


def test_the_lab_imports_no_notebook_test_or_benchmark():
    for path in sorted((ROOT / "lab").rglob("*.py")):
        tops = {used.split(".")[0] for used in imports(path)}
        assert not tops & {"tests", "benchmarks", "notebooks", "assets"}, path.name


def test_at_import_the_core_uses_only_torch_numpy_pandas_and_pydantic():
    allowed = AT_IMPORT_ONLY | sys.stdlib_module_names | {"andersonn_core"}
    for path in CORE_FILES:
        if module(path) in AT_THE_COMMAND_LINE or name(path) in PROGRAMS:
            continue
        tops = {used.split(".")[0] for used in imports(path, inside_functions=False)}
        tops -= {"triton"} if name(path) in IN_TRITON else set()
        tops -= WITH_A_SWEEP.get(name(path), set())
        assert tops <= allowed, f"{name(path)}: import {tops - allowed} where it is used"


def test_nothing_imports_triton_before_it_is_chosen():
    modules = {"andersonn_core." + path.removesuffix(".py").replace("/", ".") for path in IN_TRITON}
    for path in CORE_FILES:
        if name(path) not in IN_TRITON:
            at_import = imports(path, inside_functions=False)
            assert not any(used.startswith(tuple(modules)) for used in at_import), name(path)


def test_the_recording_needs_neither_typer_nor_rich():
    for path in (path for path in CORE_FILES if module(path) == "record"):
        assert not {used.split(".")[0] for used in imports(path)} & {"typer", "rich"}, name(path)


def test_there_are_no_star_imports():
    for folder in ("andersonn_core", "lab", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            assert not any(used.endswith(".*") for used in imports(path)), path


def test_importing_the_core_loads_no_library_of_the_dashboard_or_the_command_line():
    names = NOT_BY_THE_CORE + WITH_THE_FIRST_SOLVE + WITH_THE_FIRST_SWEEP + WITH_TORCH_COMPILE
    code = f"import andersonn_core, sys; print([m for m in {names} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_the_package_lists_its_public_names():
    import andersonn_core

    listed = andersonn_core.__all__
    assert len(listed) == len(set(listed))
    assert all(hasattr(andersonn_core, public) for public in listed)
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def files_of_the_project() -> list[Path]:
    if not shutil.which("git"):
        pytest.skip("needs git")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("this is no git checkout, so which files belong to the project is not known")
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_no_file_holds_a_path_of_one_machine():
    machine_path = re.compile(rb"(?<![\w.~/:-])/(?:home|root|Users|work|tmp|mnt|opt|srv)/[\w.-]")
    for path in files_of_the_project():
        data = path.read_bytes()
        if b"\0" not in data[:4096] and path != Path(__file__).resolve():
            assert not (found := machine_path.search(data)), f"{path.relative_to(ROOT)}: {found}"


def test_no_module_takes_the_place_of_what_lab_imports_when_it_is_asked_for():
    """A module lab.explore, once imported, would be what `from lab import explore` gives."""
    for name in lab.__all__:
        assert importlib.util.find_spec(f"lab.{name}") is None
