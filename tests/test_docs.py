"""Pages that point into the code point at something, name what is stored, and have lines that one can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from schemas import records, shards
from schemas.classes import ClassTable
from schemas.geometry import VoxelGrid
from schemas.runs import CHECKPOINTS, CONFIG, METRICS
from schemas.store import FORMAT_VERSION, STORES, ArraySpec
from schemas.workfolder import MANIFEST, PLAN, UNITS, StageManifest, UnitMarker, WorkFolder

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
FORMATS = (ROOT / "docs/formats.md").read_text() + (ROOT / "docs/shards.md").read_text()
LONGEST_LINE = 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_places_in_the_code_exist(page: Path) -> None:
    """Every `path.py:name` is a definition of that file; every image and page that is linked is there."""
    text = page.read_text()
    for path, name in re.findall(r"`([\w/]+\.py):(\w+)`", text):
        source = (ROOT / path).read_text()
        assert re.search(rf"^(class {name}|\s*def {name}|{name}\b.*=)", source, re.MULTILINE), f"{path}:{name}"
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a page without tables, code and lines that are one link."""
    in_fence = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            in_fence = not in_fence
        elif not in_fence and not line.startswith(("|", "    ")) and not re.fullmatch(r"[-* ]*!?\[.*\]\(\S*\)", line):
            yield number, line


def test_prose_is_told_from_tables_code_and_links() -> None:
    page = "a\n| b |\n    c\n```\nd\n```\n![e](f.png)\n- [g](h)\n- i [j](k) l\n"
    assert list(prose(page)) == [(1, "a"), (9, "- i [j](k) l")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_prose_are_short(page: Path) -> None:
    long = [
        f"{page.name}:{number}: {len(line)}" for number, line in prose(page.read_text()) if len(line) > LONGEST_LINE
    ]
    assert not long, f"more than {LONGEST_LINE} characters: {', '.join(long)}"


def test_decisions_stand_under_headings() -> None:
    """One paragraph each, a bold first sentence, below the heading of a part."""
    blocks = (ROOT / "docs/decisions.md").read_text().split("\n\n")[2:]
    assert blocks[0].startswith("## ")
    assert all(block.startswith(("## ", "**")) for block in blocks)
    assert sum(block.startswith("## ") for block in blocks) >= 8


def test_the_method_page_names_every_equation() -> None:
    text = (ROOT / "docs/method.md").read_text()
    assert all(f"equation ({number})" in text for number in ("1a", "1b", "2", "3", "4", "5", "6"))


@pytest.mark.parametrize("spec", [spec for specs in STORES.values() for spec in specs], ids=lambda spec: spec.name)
def test_formats_describe_every_array(spec: ArraySpec) -> None:
    fill = "NaN" if spec.fill != spec.fill else f"{spec.fill:g}"
    chunk = f"{spec.chunk} record{'s' if spec.chunk > 1 else ''}"
    assert f"| `{spec.name}` | {spec.axes} | {spec.dtype} | {fill} | {spec.unit} | {chunk} |" in FORMATS


@pytest.mark.parametrize(
    "model",
    [
        *(records.SampleRecord, records.CameraRecord, records.LidarRecord, records.BoxRecord, records.RigidPose),
        *(records.MapWindow, UnitMarker, StageManifest),
        *(shards.Manifest, shards.DatasetInfo, shards.ShardEntry, shards.ShardIndex, shards.SampleEntry),
        *(ClassTable, VoxelGrid),
    ],
    ids=lambda model: model.__name__,
)
def test_formats_name_every_field(model: type[BaseModel]) -> None:
    assert not [name for name in model.model_fields if f"`{name}`" not in FORMATS]


def test_formats_name_every_file() -> None:
    work = WorkFolder(Path("work"))
    folders = [folder.name for folder in (*work.inputs("<generator>").values(), work.shards, work.pixels)]
    files = [PLAN, MANIFEST, f"{UNITS}/<unit>.json", records.RECORDS_FILE, records.INDEX_FILE]
    members = [*shards.MEMBERS, *shards.PIXEL_MEMBERS, shards.CHECKSUMS, shards.CARD, shards.CROISSANT]
    runs = [CONFIG, METRICS, f"{CHECKPOINTS}/step-<number>/"]
    assert not [name for name in (*folders, *files, *members, *runs) if f"`{name}`" not in FORMATS]
    assert f"The format version is {FORMAT_VERSION} " in FORMATS
    assert f"Format {shards.SHARD_FORMAT}, which" in FORMATS
