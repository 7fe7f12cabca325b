"""The nuScenes tables: read, checked, fingerprinted, and loaded through the devkit with errors that name the row."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.files import sha256_of
from schemas.datasets import DatasetSpec
from schemas.errors import DataError

if TYPE_CHECKING:
    from nuscenes import NuScenes

logger = logging.getLogger(__name__)

Row = dict[str, Any]

TABLES: Final = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)
"""The 13 tables of every nuScenes version; `lidarseg` and `panoptic` are optional."""

LINKS: Final[Mapping[str, Mapping[str, str]]] = {
    "instance": {"category_token": "category"},
    "calibrated_sensor": {"sensor_token": "sensor"},
    "sample_annotation": {"instance_token": "instance", "sample_token": "sample"},
    "sample_data": {"calibrated_sensor_token": "calibrated_sensor", "sample_token": "sample"},
    "sample": {"scene_token": "scene"},
}
"""Rows that the devkit follows while it loads: table -> field -> table that the field points into."""


def table_folder(dataset: DatasetSpec) -> Path:
    """Folder of the tables, ``root / version``.

    Raises:
        DataError: the root or the version is missing; lists the versions that are there.
    """
    if not dataset.root.is_dir():
        raise DataError(
            f"dataset '{dataset.name}': root {dataset.root} is no folder. Correct `root` in datasets.yaml, pass "
            "--root, or download or generate the data there."
        )
    folder = dataset.root / dataset.version
    if not folder.is_dir():
        found = sorted(path.parent.name for path in dataset.root.glob("*/scene.json"))
        raise DataError(
            f"dataset '{dataset.name}': no version '{dataset.version}' in {dataset.root}; "
            f"versions found there: {', '.join(found) or 'none'}. Correct `version` in datasets.yaml or pass --version."
        )
    missing = [name for name in TABLES if not (folder / f"{name}.json").is_file()]
    if missing:
        raise DataError(
            f"{folder}: table {missing[0]}.json is missing ({len(missing)} of 13). Unpack the metadata archive again."
        )
    return folder


def read_table(folder: Path, name: str) -> list[Row]:
    """Rows of one table.

    Raises:
        DataError: the file is no JSON list; names file and place.
    """
    path = folder / f"{name}.json"
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is broken JSON: {error}. Unpack the metadata archive again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "token" in row for row in rows):
        raise DataError(f"{path}: expected a list of rows with a `token`. Unpack the metadata archive again.")
    return rows


def tables_fingerprint(folder: Path) -> str:
    """SHA-256 over all tables that `prepare` reads, in alphabetical order."""
    names = sorted([*TABLES, *(name for name in ("lidarseg", "panoptic") if (folder / f"{name}.json").is_file())])
    return sha256_of(folder / f"{name}.json" for name in names)


def maps_fingerprint(root: Path, folder: Path) -> str:
    """SHA-256 over the map masks that `map.json` names, by name; a missing one counts as missing."""
    names = sorted({str(row.get("filename") or "") for row in read_table(folder, "map")} - {""})
    states = [[name, sha256_of([root / name]) if (root / name).is_file() else None] for name in names]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def load_devkit(dataset: DatasetSpec) -> NuScenes:
    """Loads all tables through nuscenes-devkit; a map row whose file is missing loses its file name.

    Raises:
        DataError: a table is broken or a row points nowhere; names table, row, field and value.
    """
    from nuscenes import NuScenes

    class Tables(NuScenes):  # type: ignore[misc]  # the devkit has no types
        """The devkit refuses a world whose map is missing; here it costs only what needs the map."""

        def __load_table__(self, table_name: str) -> list[Row]:  # noqa: N807  the devkit's name
            rows: list[Row] = super().__load_table__(table_name)
            for row in rows if table_name == "map" else ():
                if not (dataset.root / row["filename"]).is_file():
                    row["filename"] = ""
            return rows

    folder = table_folder(dataset)
    try:
        # with lidarseg the devkit looks up a colour for every category, and knows none for a user's own
        colors = defaultdict[str, tuple[int, int, int]](lambda: (0, 0, 0))
        return Tables(dataset.version, str(dataset.root), verbose=False, colormap=colors)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        for name in TABLES:
            read_table(folder, name)
        find_dangling(folder)
        raise DataError(
            f"{folder}: nuscenes-devkit cannot load the tables ({type(error).__name__}: {error}). "
            "A row lacks a field or a table is empty; unpack the metadata archive again."
        ) from error
    except (AssertionError, OSError) as error:
        raise DataError(f"{folder}: nuscenes-devkit refuses the dataset: {error}. Restore what it names.") from error


def find_dangling(folder: Path) -> None:
    """Looks for the first row that points nowhere, among the links that the devkit follows.

    Raises:
        DataError: names table, row, field, value and the table without that token.
    """
    for name, fields in LINKS.items():
        rows = read_table(folder, name)
        for field, target in fields.items():
            known = {row["token"] for row in read_table(folder, target)}
            for row in rows:
                if row.get(field) not in known:
                    raise DataError(dangling_message(folder, (name, row["token"], field), (target, row.get(field))))
    mapped = {token for row in read_table(folder, "map") for token in row.get("log_tokens", [])}
    for row in read_table(folder, "log"):
        if row["token"] not in mapped:
            raise DataError(
                f"{folder / 'map.json'}: no row lists log '{row['token']}' in `log_tokens`. "
                "Add the log to its map's row."
            )


def dangling_message(folder: Path, source: tuple[str, str, str], target: tuple[str, object]) -> str:
    """One sentence for a row that points nowhere.

    Args:
        folder: folder of the tables.
        source: (table, row token, field) that points.
        target: (table, token) that does not exist.
    """
    table, token, field = source
    return (
        f"{folder / (table + '.json')}: row '{token}' has {field} '{target[1]}', which is not in {target[0]}.json. "
        "Restore that row or unpack the metadata archive again."
    )
