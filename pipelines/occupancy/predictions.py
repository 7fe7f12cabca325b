"""Anybody's files of predictions for the samples of a split, read as labels of the same form are.

Either one `.npz` for each sample with an array of classes: `TOKEN.npz` (Occ3D submissions have it as `arr_0`, SparseOcc
as `pred`), `<scene>-<frame>.npz` (`protoocc predict --write npz`) or `[gts/]SCENE/TOKEN/labels.npz`. Or the lists of
occupied voxels of `pipelines.occupancy.label_sets`. Or the submissions of SemanticKITTI, which are known by their
folder `sequences`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import UInt8

from pipelines.occupancy.label_sets import LABEL_SETS, SURROUNDOCC_RESULTS, read_listed
from pipelines.occupancy.layouts import LAYOUTS, Layout, LayoutName
from pipelines.occupancy.occ3d import class_numbers, labels_from
from schemas.classes import SEMANTICKITTI, ClassTable
from schemas.completion_files import PREDICTIONS, prediction_file, read_prediction
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.names import folder_of
from schemas.outside import Source, read_bytes, read_npz, shorten
from schemas.outside.arrays import zip_entries
from schemas.outside.limits import MEMBER_FACTOR, MEMBER_SLACK
from schemas.records import SampleRecord, read_index, read_records
from schemas.runs import PREDICTIONS as WRITTEN_HERE
from schemas.semantickitti import SEQUENCES
from schemas.shards import DatasetInfo, SampleEntry
from schemas.workfolder import WorkFolder

ListName = Literal["surroundocc", "openoccupancy"]
LISTS: Final[tuple[ListName, ...]] = get_args(ListName)
"""Sources whose files are lists of voxels in the LiDAR frame; they are brought into the grid of the shards."""
ARRAYS: Final = ("arr_0", "pred")
"""Names that an array of classes may have beside that of labels."""
_FORMS: Final = ("npz", "occ3d", "semantickitti")
"""Folders of what `protoocc predict` writes that hold the same predictions."""
_WIDEST: Final = 8
"""Bytes of a value."""
_HELD: Final = 4
"""Arrays that a file may hold in all, such as masks or instances, for the limit of its size."""
_REMEDY: Final = "Check --predictions and --source, or write the file again."
_SHOWN: Final = 3

Volume = UInt8[np.ndarray, "X Y Z"]


@dataclass(frozen=True)
class _Bare:
    """Shards without an entry of `datasets.yaml`: nobody says which class is which beyond equal names."""

    name: str
    classes: ClassTable
    categories: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PredictionFiles:
    """Files of predictions: one for each sample of a split, none of another."""

    folder: Path
    paths: Mapping[str, Path]
    """File by sample token."""
    decode: Callable[[Path, SampleEntry], Volume]
    """Reads the file of a sample."""

    def read(self, sample: SampleEntry) -> Volume:
        """Class of each voxel in the table of the shards; its unknown label where the file says nothing.

        Raises:
            DataError: the file is damaged, or holds another shape, type or number.
        """
        return self.decode(self.paths[sample.token], sample)


def open_predictions(
    folder: Path,
    samples: Sequence[SampleEntry],
    info: DatasetInfo,
    source: LayoutName | ListName | None = None,
    entry: DatasetSpec | None = None,
) -> PredictionFiles:
    """Finds the file of each sample.

    Args:
        folder: of the files, or of `protoocc predict`, which has one of these for each form.
        samples: of the split.
        info: grid and class table of the shards.
        source: whose class numbers and files they are; None: classes are numbered as in the shards.
        entry: of `datasets.yaml`; its records tell the names of lists of voxels, its categories unequal class names.

    Raises:
        ConfigError: no such folder, a class without a counterpart, or no entry for lists of voxels.
        DataError: a sample has no file, or a file belongs to no sample of the split.
    """
    if not folder.is_dir():
        raise ConfigError(f"--predictions {folder}: no such folder; expected one with a file for each sample")
    folder = _written(folder, _FORMS if source is None else (source,))
    if source is None and (folder / SEQUENCES).is_dir():
        return _label_files(folder, samples, info, entry)
    if source == "surroundocc" or source == "openoccupancy":
        return _lists(folder, samples, source, entry)
    if source is None:
        layout, labels = _layout_of(info.classes), _labels_of(info.classes)
    else:
        layout = LAYOUTS[source]
        labels = labels_from(entry or _Bare(info.name, info.classes), layout)
    paths, found = _array_files(folder, samples)
    _check_complete(folder, paths, found)
    shape = info.grid.shape
    return PredictionFiles(folder, paths, lambda path, sample: labels[_read_numbers(path, sample.token, layout, shape)])


def _written(folder: Path, forms: Sequence[str]) -> Path:
    """The first of some forms in a folder of `protoocc predict`; any other folder as it is."""
    held = [folder / form for form in forms if (folder / form).is_dir()]
    return held[0] if held and (folder / WRITTEN_HERE).is_file() else folder


def _layout_of(classes: ClassTable) -> Layout:
    return Layout(arrays={"semantics": "semantics"}, classes=classes.names, free=(classes.free,), has_masks=False)


def _labels_of(classes: ClassTable) -> UInt8[np.ndarray, " 256"]:
    """Label of each number that is numbered as in a table; others are unknown."""
    labels = np.full(256, classes.ignored, dtype=np.uint8)
    labels[: classes.num_classes] = np.arange(classes.num_classes)
    return labels


def _array_files(folder: Path, samples: Sequence[SampleEntry]) -> tuple[dict[str, Path], set[Path]]:
    """Files of the samples by token in the arrangement that most of them fit, and all files of that arrangement."""
    gts = folder / "gts" if (folder / "gts").is_dir() else folder
    flat, nested = set(_plain(folder, "*.npz")), set(_plain(gts, "**/labels.npz"))
    arrangements = (
        ({sample.token: folder / f"{sample.token}.npz" for sample in samples}, flat),
        ({sample.token: folder / f"{sample.key}.npz" for sample in samples}, flat),
        ({sample.token: gts / folder_of(sample.scene) / sample.token / "labels.npz" for sample in samples}, nested),
    )
    return max(arrangements, key=lambda arrangement: len(arrangement[1].intersection(arrangement[0].values())))


def _plain(folder: Path, pattern: str) -> list[Path]:
    """Files of a pattern, without the hidden ones that some systems leave beside others."""
    return [path for path in folder.glob(pattern) if not path.name.startswith(".")]


def _check_complete(folder: Path, paths: Mapping[str, Path], found: set[Path]) -> None:
    """Refuses files that are missing or foreign, both in one message."""
    expected = set(paths.values())
    missing = [f"{token} ({path})" for token, path in paths.items() if path not in found]
    foreign = sorted(str(path.relative_to(folder)) for path in found - expected)
    faults = []
    if missing:
        faults.append(f"no file for {len(missing)} of {len(paths)} samples of the split: {_some(missing)}")
    if foreign:
        faults.append(f"{len(foreign)} file{'s' * (len(foreign) > 1)} of no sample of the split: {_some(foreign)}")
    if faults:
        raise DataError(
            f"--predictions {folder}: {'; '.join(faults)}. A score counts every sample of its --split and no other: "
            "predict all of it, choose the split that the files are of, or their --source."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _read_numbers(path: Path, token: str, layout: Layout, shape: tuple[int, int, int]) -> Volume:
    """The one array of classes of an npz: of the grid's shape, or the same values in a row or behind an axis of 1."""
    where, voxels = f"{path} (sample {token})", math.prod(shape)
    source = Source(where, _REMEDY)
    data = read_bytes(source, path, _HELD * MEMBER_FACTOR * _WIDEST * voxels + MEMBER_SLACK)
    held = [name.removesuffix(".npy") for name in zip_entries(source, data)]
    names = (*ARRAYS, layout.arrays["semantics"])
    wanted = [name for name in names if name in held]
    if len(wanted) != 1:
        raise source.error(f"holds {shorten(held)}, expected one array of classes called {' or '.join(names)}")
    values = read_npz(source, data, wanted, _WIDEST * voxels)[wanted[0]]
    if values.shape in ((voxels,), (1, voxels), (1, *shape)):
        values = values.reshape(shape)
    return class_numbers(where, values, shape, layout)


def _label_files(
    folder: Path, samples: Sequence[SampleEntry], info: DatasetInfo, entry: DatasetSpec | None
) -> PredictionFiles:
    """`sequences/NN/predictions/FFFFFF.label`, whose raw ids become classes by name."""
    layout = Layout({"semantics": PREDICTIONS}, SEMANTICKITTI.names, (SEMANTICKITTI.free,), has_masks=False)
    labels = labels_from(entry or _Bare(info.name, info.classes), layout)
    paths = {sample.token: folder / prediction_file(sample.token) for sample in samples}
    _check_complete(folder, paths, set(_plain(folder, f"{SEQUENCES}/*/{PREDICTIONS}/*.label")))
    shape = info.grid.shape
    return PredictionFiles(folder, paths, lambda path, sample: labels[read_prediction(path, sample.token, shape)])


def _lists(
    folder: Path, samples: Sequence[SampleEntry], source: ListName, entry: DatasetSpec | None
) -> PredictionFiles:
    if entry is None:
        raise ConfigError(
            f"--source {source}: the names of its files come from the records of a dataset; name its entry with "
            "--dataset instead of --shards"
        )
    records = _records(entry, samples)
    label_set = LABEL_SETS[source]
    patterns: tuple[str, ...] = ("*.npy", "samples/*.npy", "scene_*/occupancy/*.npy")
    if source == "surroundocc" and any(folder.glob("*/pred.npy")):
        label_set, patterns = SURROUNDOCC_RESULTS, ("*/pred.npy",)
    paths = {token: label_set.path_of(folder, entry, record) for token, record in records.items()}
    _check_complete(folder, paths, {path for pattern in patterns for path in _plain(folder, pattern)})
    return PredictionFiles(
        folder,
        paths,
        lambda path, sample: read_listed(path, label_set, entry, records[sample.token])["semantics"],
    )


def _records(entry: DatasetSpec, samples: Sequence[SampleEntry]) -> dict[str, SampleRecord]:
    """Records of the samples by token.

    Raises:
        DataError: `prepare` has not finished, or made records of other samples.
    """
    folder = WorkFolder(entry.work).records
    by_token = {one.token: one for one in read_index(folder)}
    unknown = [sample.token for sample in samples if sample.token not in by_token]
    if unknown:
        raise DataError(
            f"{folder} has no record of sample {unknown[0]} of the shards. Run `protoocc prepare` and pack."
        )
    return {record.token: record for record in read_records(folder, [by_token[sample.token] for sample in samples])}
