"""Checks of the installation and the machine, each with the exact command that repairs it."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cli.say import answers, say, shown
from pipelines.scheduler import available_cores

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from rich.console import Console

Status = Literal["ok", "warn", "fail"]

PYTHON_VERSIONS: Final = ("3.11", "3.12")
"""Those that all packages have wheels for: nuscenes-devkit needs numpy below 2, which has none for 3.13."""
DISK_MINIMUM_GB: Final = 5.0
MEMORY_MINIMUM_GB: Final = 4.0
OWN_PACKAGES: Final = ("cli", "pipelines", "protoocc", "schemas")
OPENCV_WHEELS: Final = (
    "opencv-contrib-python",
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
)
"""They all install into the same folder: the last one written wins, and only the contrib wheels hold ximgproc."""
STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    """Command or advice; empty when there is nothing to do."""


def doctor(json_output: bool) -> int:
    """Prints all checks; exit code 0, or 2 when one of them fails."""
    import json

    checks = run_checks()
    console = answers()
    if json_output:
        console.print_json(json.dumps([asdict(check) for check in checks]))
    else:
        print_report(checks, console)
    return 2 if any(check.status == "fail" for check in checks) else 0


def run_checks() -> list[Check]:
    """Looks at Python, packages, OpenCV, embree, disk, memory, cores and GPU; takes a few seconds for the imports."""
    checks = [check_python(), *check_requirements(), check_torch(), check_opencv(), check_embree()]
    return [*checks, check_names(), check_disk(Path.cwd()), check_memory(), check_cores(), check_gpu()]


def print_report(checks: list[Check], console: Console) -> None:
    """Table of the checks, then each remedy on lines of its own, whole, so that it can be copied."""
    from rich.table import Table

    table = Table("", "check", "found", box=None, pad_edge=False, header_style="bold")
    for check in checks:
        table.add_row(shown(check.status, STYLES[check.status]), shown(check.name), shown(check.detail))
    console.print(table)
    troubled = [check for check in checks if check.remedy]
    for check in troubled:
        say(f"\n{check.name}: {check.detail}. Repair:", STYLES[check.status], to=console)
        say(f"  {check.remedy}", to=console)
    if not troubled:
        console.print("\nEverything is in order.")


def check_python() -> Check:
    """Python version."""
    found = ".".join(map(str, sys.version_info[:3]))
    if found.rpartition(".")[0] in PYTHON_VERSIONS:
        return Check("python", "ok", f"{found} ({sys.executable})")
    wanted = " or ".join(PYTHON_VERSIONS)
    return Check("python", "fail", f"{found}, {wanted} is needed", f"python{PYTHON_VERSIONS[0]} -m venv --clear .venv")


def check_requirements() -> list[Check]:
    """One check per package that the installation declares: present and within its range."""
    return [_check_requirement(requirement) for requirement in _requirements()]


def check_torch() -> Check:
    """Whether torch and torchvision fit together: a mismatched pair fails while it is imported."""
    remedy = f"{_pip()} install --upgrade --force-reinstall torch torchvision 'numpy<2'"
    return _try_import("torch + torchvision", ("torch", "torchvision"), remedy)


def check_opencv() -> Check:
    """Whether cv2 holds the SEEDS superpixels, and all OpenCV wheels have one version.

    `nuscenes-devkit` asks for opencv-python-headless, which shares its folder with the contrib wheel: when it is
    installed later, it removes cv2.ximgproc.
    """
    versions = {name: version for name in OPENCV_WHEELS if (version := _version(name)) is not None}
    found = ", ".join(f"{name} {version}" for name, version in versions.items()) or "no OpenCV wheel"
    wheel = versions.get("opencv-python-headless") or versions.get("opencv-contrib-python")
    pin = f"opencv-contrib-python=={wheel}" if wheel else "'opencv-contrib-python>=4.8,<4.12'"
    remedy = f"{_pip()} install --force-reinstall --no-deps {pin}"
    try:
        import cv2
    except (ImportError, OSError, AttributeError) as error:
        return Check("cv2.ximgproc", "fail", f"cv2 cannot be imported ({error}); {found}", remedy)
    if not hasattr(getattr(cv2, "ximgproc", None), "createSuperpixelSEEDS"):
        return Check("cv2.ximgproc", "fail", f"SEEDS superpixels are missing from cv2; {found}", remedy)
    if len(set(versions.values())) > 1:
        return Check("cv2.ximgproc", "warn", f"OpenCV wheels of different versions share one folder; {found}", remedy)
    return Check("cv2.ximgproc", "ok", f"SEEDS superpixels present; {found}")


def check_embree() -> Check:
    """Whether rays of the generated world run through embree."""

    def shoot() -> str:
        import trimesh
        from trimesh.ray import ray_pyembree

        rays: Any = ray_pyembree.RayMeshIntersector(trimesh.creation.box(extents=(2.0, 2.0, 2.0)))
        if not rays.intersects_any([[0.0, 0.0, 5.0]], [[0.0, 0.0, -1.0]])[0]:
            raise RuntimeError("a ray misses a box")
        return "a ray meets a box"

    return _attempt("embree", shoot, f"{_pip()} install --force-reinstall --no-deps 'embreex>=2.17.7.post4'")


def check_names() -> Check:
    """Whether our four import names belong to us alone: another wheel with `schemas/` would overwrite ours silently."""
    owners = metadata.packages_distributions()
    intruders = {name: sorted(set(owners.get(name, [])) - {"protoocc"}) for name in OWN_PACKAGES}
    for name, found in intruders.items():
        if found:
            detail = f"{name}/ is also shipped by {', '.join(found)}"
            return Check("import names", "fail", detail, f"{_pip()} uninstall {' '.join(found)}")
    if any(name not in owners for name in OWN_PACKAGES):
        detail = "protoocc is not installed, it runs from this folder"
        return Check("import names", "warn", detail, f"{_pip()} install --editable .")
    return Check("import names", "ok", f"{', '.join(OWN_PACKAGES)} belong to protoocc")


def check_disk(folder: Path) -> Check:
    """Free space of the file system that holds the folder."""
    free_gb = shutil.disk_usage(folder).free / 1e9
    detail = f"{free_gb:.1f} GB free in {folder}"
    if free_gb >= DISK_MINIMUM_GB:
        return Check("disk", "ok", detail)
    return Check("disk", "warn", detail, f"free space, or work elsewhere: the demo needs {DISK_MINIMUM_GB:.0f} GB")


def check_memory() -> Check:
    """Physical memory of the machine."""
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if total_gb >= MEMORY_MINIMUM_GB:
        return Check("memory", "ok", f"{total_gb:.1f} GB")
    return Check("memory", "warn", f"{total_gb:.1f} GB", "run the data stages with --workers 1")


def check_cores() -> Check:
    """Processor cores that this process may use."""
    cores = available_cores()
    return Check("cores", "ok", f"{cores} of {os.cpu_count()}")


def check_gpu() -> Check:
    """Names of the GPUs that torch sees."""

    def name() -> str:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or "none, CPU is fine"

    return _attempt("gpu", name, f"{_pip()} install --upgrade torch torchvision")


def _requirements() -> Iterator[Requirement]:
    from packaging.requirements import Requirement

    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    try:
        lines = metadata.requires("protoocc") or []
    except metadata.PackageNotFoundError:
        lines = tomllib.loads(pyproject.read_text())["project"]["dependencies"] if pyproject.is_file() else []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _check_requirement(requirement: Requirement) -> Check:
    found = _version(requirement.name)
    remedy = f"{_pip()} install --upgrade '{requirement}' && protoocc doctor"
    if found is None:
        return Check(requirement.name, "fail", "not installed", remedy)
    if not requirement.specifier.contains(found, prereleases=True):
        return Check(requirement.name, "fail", f"{found}, needs {requirement.specifier}", remedy)
    return Check(requirement.name, "ok", found)


def _try_import(name: str, modules: tuple[str, ...], remedy: str) -> Check:
    def load() -> str:
        return ", ".join(f"{module} {importlib.import_module(module).__version__}" for module in modules)

    return _attempt(name, load, remedy)


def _attempt(name: str, action: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, "ok", action())
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return Check(name, "fail", f"{type(error).__name__}: {error}", remedy)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _pip() -> str:
    return f"{sys.executable} -m pip"
