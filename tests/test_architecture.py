"""The shape of the project itself: who owns our names, what is imported when, how long files and functions may be.

`make check` runs this file; the number of parameters is ruff's rule PLR0913, who may import whom is import-linter's.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "pipelines", "protoocc", "schemas")
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_our_import_names_are_ours_alone():
    try:
        distribution("protoocc")
    except PackageNotFoundError:
        pytest.skip("protoocc is not installed, only on the path")
    owners = packages_distributions()
    intruders = {room: owners[room] for room in ROOMS if set(owners.get(room, [])) - {"protoocc"}}
    assert not intruders, f"other distributions ship our packages: {intruders}; use an environment of its own"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_command(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Commands have a parameter per option and show examples in their help."""
    return path.is_relative_to(ROOT / "cli") and "Examples:" in (ast.get_docstring(function) or "")


def test_files_stay_small():
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in python_files(*ROOMS, "tests")}
    assert len(lengths) > 100
    assert not {path: lines for path, lines in lengths.items() if lines > MOST_LINES}


def test_functions_stay_small():
    """Decorators, signature and docstring count; commands are left out."""
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {function.end_lineno - function.lineno + 1} lines"
        for path in python_files(*ROOMS, "tests")
        for function in functions(path)
        if function.end_lineno - function.lineno + 1 > MOST_LINES_OF_A_FUNCTION and not is_command(path, function)
    ]
    assert not long, "\n".join(long)


def test_no_drawers():
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert not [path for path in python_files(*ROOMS) if drawers & {part.removesuffix(".py") for part in path.parts}]


def test_help_imports_nothing_heavy():
    """`protoocc --help` must answer at once; a heavy import on its way would be seen here, whatever the machine."""
    code = (
        "import sys\n"
        "sys.argv = ['protoocc', '--help']\n"
        "from cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'cv2', 'zarr', 'dask', 'distributed', 'nuscenes', 'pydantic', 'numba'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert "demo" in done.stdout


def imported_by(*modules: str, without: tuple[str, ...] = ()) -> set[str]:
    """Names of all top-level packages in memory once some of our packages are imported whole."""
    code = (
        "import importlib, pkgutil, sys\n"
        f"for root in {modules!r}:\n"
        "    package = importlib.import_module(root)\n"
        "    for module in pkgutil.walk_packages(package.__path__, root + '.'):\n"
        f"        if not module.name.startswith({without!r}):\n"
        "            importlib.import_module(module.name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_what_each_room_really_imports():
    """Contracts read our imports; this one and the next see what the libraries bring along as well."""
    light = imported_by("schemas", without=("schemas.voxels", "schemas.network_images"))
    assert not light & {"numba", "scipy", "torch", "dask", "distributed", "zarr", "typer", "rich", "nuscenes", "cv2"}
    making = imported_by("pipelines", without=("pipelines.masks", "pipelines.bench"))
    assert "zarr" in making and not making & {"torch", "torchvision", "segment_anything", "typer", "rich"}


@pytest.mark.slow
def test_learning_imports_nothing_of_the_pipelines():
    learning = imported_by("protoocc")
    assert "torch" in learning and not learning & {"dask", "distributed", "zarr", "typer", "rich", "nuscenes"}


def test_python_versions_are_said_once():
    from cli.doctor import PYTHON_VERSIONS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first, last = (tuple(map(int, version.split("."))) for version in (PYTHON_VERSIONS[0], PYTHON_VERSIONS[-1]))
    assert project["requires-python"] == f">={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}"
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if line.startswith("Programming Language")]
    assert named == list(PYTHON_VERSIONS)
