"""The shape of the project itself: who owns our names, how fast help answers, what files may weigh."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "pipelines", "protoocc", "schemas")


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


@pytest.mark.parametrize("path", python_files(*ROOMS), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


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
