"""`protoocc doctor`: each problem is found and gets its exact repair."""

from __future__ import annotations

import json
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from cli import doctor
from cli.doctor import Check


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installed distributions, as far as the doctor can see; a test changes them."""
    found = {"opencv-contrib-python": "4.11.0.86", "opencv-python-headless": "4.11.0.86"}

    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(metadata, "version", version)
    return found


def _fake_cv2(monkeypatch: pytest.MonkeyPatch, **attributes: object) -> None:
    module = types.ModuleType("cv2")
    for name, value in attributes.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "cv2", module)


def test_missing_ximgproc_fails_with_the_exact_command(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]
) -> None:
    versions["opencv-python-headless"] = "4.10.0.84"
    _fake_cv2(monkeypatch)
    check = doctor.check_opencv()
    assert check.status == "fail"
    assert check.remedy.endswith("pip install --force-reinstall --no-deps opencv-contrib-python==4.10.0.84")


def test_ximgproc_without_seeds_fails_too(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    del versions["opencv-python-headless"]
    _fake_cv2(monkeypatch, ximgproc=types.SimpleNamespace())
    check = doctor.check_opencv()
    assert check.status == "fail"
    assert check.remedy.endswith("opencv-contrib-python==4.11.0.86")


def test_no_opencv_at_all_names_the_range(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    versions.clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    check = doctor.check_opencv()
    assert check.status == "fail"
    assert "no OpenCV wheel" in check.detail
    assert check.remedy.endswith("'opencv-contrib-python>=4.8,<4.12'")


def test_wheels_of_two_versions_are_a_warning(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    _fake_cv2(monkeypatch, ximgproc=types.SimpleNamespace(createSuperpixelSEEDS=print))
    assert doctor.check_opencv().status == "ok"
    versions["opencv-contrib-python"] = "4.8.1.78"
    check = doctor.check_opencv()
    assert check.status == "warn"
    assert check.remedy.endswith("opencv-contrib-python==4.11.0.86")


def test_requirements_present_missing_and_out_of_range(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]
) -> None:
    versions.update({"numpy": "2.1.0", "zarr": "3.1.5"})
    wanted = ["numpy>=1.24,<2", "zarr>=3,<3.2", "webdataset>=1.0", 'ruff>=0.9; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    checks = {check.name: check for check in doctor.check_requirements()}
    assert {name: check.status for name, check in checks.items()} == {
        "numpy": "fail",
        "zarr": "ok",
        "webdataset": "fail",
    }
    assert "2.1.0, needs" in checks["numpy"].detail
    assert "pip install --upgrade 'numpy<2,>=1.24'" in checks["numpy"].remedy
    assert checks["webdataset"].detail == "not installed"


def test_foreign_owner_of_an_import_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {name: ["protoocc"] for name in doctor.OWN_PACKAGES}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)
    assert doctor.check_names().status == "ok"
    owners["schemas"] = ["protoocc", "othertool"]
    check = doctor.check_names()
    assert check.status == "fail"
    assert check.detail == "schemas/ is also shipped by othertool"
    assert check.remedy.endswith("pip uninstall othertool")
    owners.clear()
    assert doctor.check_names().status == "warn"


def test_little_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = types.SimpleNamespace(free=5.0e9)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    assert doctor.check_disk(tmp_path).status == "ok"  # exactly 5 GB
    free.free = 4.9e9
    check = doctor.check_disk(tmp_path)
    assert check.status == "warn"
    assert "4.9 GB free" in check.detail


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 13, 0)])
def test_python_without_wheels_fails(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    check = doctor.check_python()
    assert check.status == "fail"
    assert check.detail == f"3.{version[1]}.{version[2]}, 3.11 or 3.12 is needed"


@pytest.mark.parametrize("version", [(3, 11, 7), (3, 12, 0)])
def test_python_with_wheels_is_fine(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    assert doctor.check_python().status == "ok"


def test_broken_import_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    check = doctor.check_torch()
    assert check.status == "fail"
    assert "torchvision" in check.detail
    assert "install --upgrade --force-reinstall torch torchvision" in check.remedy


def test_this_environment_has_no_failure() -> None:
    checks = doctor.run_checks()
    assert [check for check in checks if check.status == "fail"] == []
    names = [check.name for check in checks]
    for name in ("python", "torch", "zarr", "cv2.ximgproc", "embree", "import names", "disk", "memory", "cores", "gpu"):
        assert name in names


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 2)])
def test_exit_code(monkeypatch: pytest.MonkeyPatch, status: doctor.Status, code: int) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda: [Check("x", status, "detail")])
    assert doctor.doctor(json_output=False) == code


def test_json_lists_every_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda: [Check("x", "fail", "a detail", "a remedy")])
    assert doctor.doctor(json_output=True) == 2
    expected = [{"name": "x", "status": "fail", "detail": "a detail", "remedy": "a remedy"}]
    assert json.loads(capsys.readouterr().out) == expected


def test_remedy_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    command = "python -m pip install --force-reinstall --no-deps " + "x" * 200
    doctor.print_report([Check("[cv2]", "fail", "missing", command)], Console(width=60))
    assert command in capsys.readouterr().out
    doctor.print_report([Check("x", "ok", "fine")], Console(width=60))
    assert "Everything is in order." in capsys.readouterr().out
