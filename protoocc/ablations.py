"""The rows of the tables of the paper: 4 to 8 as changes of settings, 2 as networks with and without its parts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal

_NO_MAPPING = ("model.prototype_mapping=false", "model.prototype_optimisation=false")
_NO_OPTIMISATION = ("model.prototype_optimisation=false",)
_ONE_VIEW = ("model.multi_perspective=false",)

Masks = Literal["seeds-299", "seeds-91", "sam"]
"""Pseudo masks: SEEDS superpixels and how many an image has, or those of Segment Anything."""

_AUGMENTATIONS: Final = {
    "dropout": '"dropout"',
    "gaussian": '"gaussian"',
    "transpose": '"transpose"',
    "flips": '"flip_x","flip_y"',
}
"""Augmentations of table 5; flips are one view mirrored along x and one along y."""


@dataclass(frozen=True)
class Ablation:
    """One row of a table.

    Attributes:
        changes: `path=value` for `protoocc.config.override`.
        published_miou: Occ3D-nuScenes val mIoU in the paper, percent; None where the printed table is unreadable.
        masks: of the shards that the row is trained on.
        preset: reduced network whose settings the row changes, see `protoocc.presets`.
        reduced: its changes there, where they are others.
        steps: length of its training; None for that of the table.
        over: row of the same table that this one is compared with; None for the table's first one.
    """

    changes: tuple[str, ...]
    published_miou: float | None
    masks: Masks = "seeds-299"
    preset: str = "protoocc-mini"
    over: str | None = None
    steps: int | None = None
    reduced: tuple[str, ...] | None = None

    def changes_of(self, preset: str) -> tuple[str, ...]:
        """What the row changes in a network: its reduced one, or any other."""
        return self.changes if preset != self.preset or self.reduced is None else self.reduced


_REDUCED_CELLS: Final = {2: 2, 4: 3, 6: 5, 8: 6}
"""Edge r of a cell in the paper, and in `protoocc-mini` for about as many prototypes of its smaller images: 720, 336,
120 and 84, where the paper has 1440, 350, 144 and 91."""


def _cells(edge: int, published_miou: float, masks: Masks = "seeds-299") -> Ablation:
    """A row with cells of r x r."""
    change = "model.prototype_cell={}"
    return Ablation((change.format(edge),), published_miou, masks, reduced=(change.format(_REDUCED_CELLS[edge]),))


def _table_5() -> dict[str, Ablation]:
    """Four augmentations singly and in pairs, without and with consistency (without prototypes, as in row 1)."""
    published: dict[tuple[str, ...], tuple[float | None, float | None]] = {
        ("dropout",): (36.99, 37.19),
        ("gaussian",): (36.46, 36.80),
        ("transpose",): (36.49, 36.86),
        ("flips",): (36.70, 37.18),
    }
    rows: dict[str, Ablation] = {}
    for chosen in [(name,) for name in _AUGMENTATIONS] + list(combinations(_AUGMENTATIONS, 2)):
        without, consistent = published.get(chosen, (None, None))
        views = f"model.augmentations=[{','.join(_AUGMENTATIONS[name] for name in chosen)}]"
        row = "table5-" + "-".join(chosen)
        rows[row] = Ablation((*_NO_MAPPING, views, "loss.lambda_cons=0"), without)
        rows[f"{row}-consistent"] = Ablation((*_NO_MAPPING, views), consistent)
    return rows


ABLATIONS: Final[dict[str, Ablation]] = {
    "table4-none": Ablation((*_NO_MAPPING, *_ONE_VIEW), 35.78),
    "table4-mapping": Ablation((*_NO_OPTIMISATION, *_ONE_VIEW), 35.80),
    "table4-mapping-optimisation": Ablation(_ONE_VIEW, 36.55),
    "table4-decoding": Ablation(_NO_MAPPING, 37.25),
    "table4-all": Ablation((), 37.80),
    **_table_5(),
    "table6-r2": _cells(2, 36.90),
    "table6-r4": _cells(4, 37.80),
    "table6-r6": _cells(6, 36.95),
    "table6-r8": _cells(8, 37.07),
    "table7-none": Ablation(_NO_MAPPING, 37.25),
    "table7-seeds-91": Ablation((), 37.14, "seeds-91"),
    "table7-seeds-299": Ablation((), 37.80),
    "table7-sam": Ablation((), 37.29, "sam"),
    "table8-r8-seeds-299": _cells(8, 37.07),
    "table8-r8-sam": _cells(8, 37.21, "sam"),
    "table8-r4-seeds-299": Ablation((), 37.80),
    "table8-r4-sam": Ablation((), 37.29, "sam"),
}
"""Every row by table and name. `table7-none` is the row of table 4 that has no prototypes, hence needs no masks."""


TABLE_2: Final[dict[str, Ablation]] = {
    "table2-proposals-as-is": Ablation((), None, preset="proposals-as-is", steps=20),
    "table2-voxformer": Ablation((), 11.51, preset="voxformer-demo"),
    "table2-voxformer-protoocc": Ablation((), 12.39, preset="voxformer-demo-protoocc", over="voxformer"),
    "table2-symphonies": Ablation((), 13.64, preset="symphonies-demo"),
    "table2-symphonies-protoocc": Ablation((), 14.50, preset="symphonies-demo-protoocc", over="symphonies"),
}
"""Hosts on SemanticKITTI without and with the paper's parts; published are the rows -S of table 2. Before them
what they have to beat, measured depth taken for occupancy, which learns only what the most frequent class is. All are
presets of their own, so `train --ablation` has no word for them."""

ROWS: Final = {**ABLATIONS, **TABLE_2}
"""Every row that `protoocc reproduce` trains."""


def rows_of(table: str) -> dict[str, Ablation]:
    """Rows of a table, such as `table4`, by their names without it."""
    return {name.removeprefix(f"{table}-"): row for name, row in ROWS.items() if name.startswith(f"{table}-")}
