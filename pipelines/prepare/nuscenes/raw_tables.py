"""The nuScenes tables: read, checked, fingerprinted, and loaded through the devkit with errors that name the row."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.files import sha256_of
from pipelines.prepare.nuscenes.file_names import relative_name
from schemas.datasets import DatasetSpec
from schemas.errors import DataError, read_errors

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
"""The 13 tables of every nuScenes version."""

OPTIONAL_TABLES: Final = ("panoptic", "lidarseg")
"""Point labels; where several label the same points, the last one counts."""

NO_MAP: Final = "no map"
"""Token of the row that logs without a map get."""

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
    """Rows of one table, each token once: a row that is there twice, word for word, counts once.

    Raises:
        DataError: the file cannot be read or is no JSON list of rows with a token (names file and place), or different
            rows have the same token.
    """
    path = folder / f"{name}.json"
    with read_errors(path):
        data = path.read_bytes()
    try:
        rows = json.loads(data)  # also with a byte-order mark
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is broken JSON: {error}. Unpack the metadata archive again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_token(row.get("token")) for row in rows):
        raise DataError(f"{path}: expected a list of rows with a `token`. Unpack the metadata archive again.")
    by_token: dict[str, Row] = {}
    for row in rows:
        if by_token.setdefault(row["token"], row) != row:
            raise DataError(
                f"{path}: different rows have the token '{row['token']}'. Tokens name one row each: remove or rename "
                "one of them, in the tables that refer to it as well."
            )
    return list(by_token.values())


def _is_token(value: object) -> bool:
    return isinstance(value, str) and value != ""


def tables_fingerprint(folder: Path) -> str:
    """SHA-256 over all tables that `prepare` reads, in alphabetical order.

    Raises:
        DataError: a table cannot be read.
    """
    names = sorted([*TABLES, *optional_tables(folder)])
    with read_errors(folder):
        return sha256_of(folder / f"{name}.json" for name in names)


def optional_tables(folder: Path) -> list[str]:
    """Tables of point labels that are there."""
    return [name for name in OPTIONAL_TABLES if (folder / f"{name}.json").is_file()]


def maps_fingerprint(root: Path, folder: Path) -> str:
    """SHA-256 over the map masks that `map.json` names, by name; a missing one counts as missing.

    Raises:
        DataError: `map.json` or a mask cannot be read.
    """
    files = {path for row in read_table(folder, "map") if (path := map_file(root, row)) is not None}
    with read_errors(root):
        states = {path.relative_to(root).as_posix(): sha256_of([path]) for path in files}
    return hashlib.sha256(json.dumps(states, sort_keys=True).encode()).hexdigest()


def map_file(root: Path, row: Row) -> Path | None:
    """Mask that a row of `map.json` names; None where it names none or the file is missing."""
    try:
        path = root / relative_name(root, row.get("filename"))
    except ValueError:
        return None
    return path if path.is_file() else None


def load_devkit(dataset: DatasetSpec) -> NuScenes:
    """All tables, with the devkit's links between them.

    The devkit's own loader would refuse a dataset without maps, and one whose folder of point labels lacks a file.

    Raises:
        DataError: a table is broken or a row points nowhere; names table, row, field and value.
    """
    from nuscenes import NuScenes

    folder = table_folder(dataset)

    class Tables(NuScenes):  # type: ignore[misc]  # the devkit has no types
        """The devkit's links and look-ups, on tables that were checked when they were read."""

        def __init__(self) -> None:
            self.version, self.dataroot, self.verbose = dataset.version, str(dataset.root), False
            self.table_names = [*TABLES, *optional_tables(folder)]
            for name in self.table_names:
                setattr(self, name, read_table(folder, name))
            if optional_tables(folder):
                _require_index(folder, self.category)
            logs = [row["token"] for row in self.log]
            self.map.insert(0, {"token": NO_MAP, "log_tokens": logs, "filename": ""})
            self.__make_reverse_index__(False)

    try:
        return Tables()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        find_dangling(folder)
        raise DataError(
            f"{folder}: the tables cannot be linked ({type(error).__name__}: {error}). "
            "A row lacks a field or holds a value of another kind; unpack the metadata archive again."
        ) from error


def _require_index(folder: Path, categories: Sequence[Row]) -> None:
    """Refuses point labels without the numbers of their categories."""
    without = [row["token"] for row in categories if "index" not in row]
    if without:
        raise DataError(
            f"{folder / 'category.json'}: row '{without[0]}' has no `index`, which point labels "
            f"({optional_tables(folder)[-1]}.json) need. Take the category.json that comes with nuScenes-lidarseg."
        )


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
                if not isinstance(row.get(field), str) or row[field] not in known:
                    raise DataError(dangling_message(folder, (name, row["token"], field), (target, row.get(field))))


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
