"""Means, deviations and differences of a table by hand, and its page."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from protoocc.reproduce import Figures, SeedResult
from protoocc.reproduced_table import ReproducedTable, Spread, TableFacts, make_table, markdown


def seed_result(seed: int, miou: float | None) -> SeedResult:
    return SeedResult(
        seed=seed,
        scores=Figures(miou=miou, iou=0.5, things_iou=0.25 + seed / 100),
        frequent_class=Figures(miou=0.0625, iou=0.625, things_iou=0.0),
        train_seconds=100.0 + seed,
        commits=("1+a", "1+b"),
        hardware="Z80",
    )


def table_of(none: Sequence[float | None], every: Sequence[float | None]) -> ReproducedTable:
    facts = TableFacts(
        table="table4",
        split="test",
        samples=40,
        train_samples=80,
        steps=400,
        changes=("loss.lambda_cls=0.5",),
        world={"scenes": {"train": 16, "test": 8}, "seed": 0},
        left_out={"decoding": "nobody asked"},
        command="protoocc reproduce table4 --steps 400",
    )
    rows = {"none": none, "all": every}
    return make_table(facts, {name: [seed_result(*pair) for pair in enumerate(row)] for name, row in rows.items()})


@pytest.fixture
def table() -> ReproducedTable:
    """Differences of 0.03, 0.03 and 0.06 between rows that spread by 0.02 and more."""
    return table_of([0.10, 0.12, 0.14], [0.13, 0.15, 0.20])


def test_sample_deviation() -> None:
    """Squares of -2, 0 and 2 over n - 1 = 2."""
    spread = Spread.of([1.0, 3.0, 5.0])
    assert spread is not None
    assert (spread.mean, spread.std) == (3.0, 2.0)
    assert Spread.of([0.5]) == Spread(mean=0.5, std=None)
    assert Spread.of([0.5, None]) is None
    assert Spread.of([]) is None


def test_figures_by_hand(table: ReproducedTable) -> None:
    none, every = table.rows
    assert none.miou is not None and every.miou is not None and every.difference is not None
    assert (none.miou.mean, none.miou.std) == (pytest.approx(0.12), pytest.approx(0.02))
    assert every.miou.mean == pytest.approx(0.16)
    assert every.miou.std == pytest.approx((0.0026 / 2) ** 0.5)
    assert (every.difference.mean, every.difference.std) == (pytest.approx(0.04), pytest.approx(0.0003**0.5))
    assert every.iou == Spread(mean=0.5, std=0.0)
    assert every.things_iou is not None and every.things_iou.mean == pytest.approx(0.26)
    assert (none.difference, none.published_difference) == (None, None)
    assert (none.published_miou, every.published_miou, every.published_difference) == (0.3578, 0.378, 0.0202)


def test_table_carries_what_its_figures_belong_to(table: ReproducedTable) -> None:
    assert (table.seeds, table.commits, table.hardware) == ((0, 1, 2), ("1+a", "1+b"), ("Z80",))
    assert table.rows[0].changes[0] == "model.prototype_mapping=false"
    assert [result.seed for result in table.rows[1].seeds] == [0, 1, 2]
    stored = json.loads(table.model_dump_json())
    expected = {"split", "samples", "steps", "seeds", "world", "command", "commits", "hardware", "rows", "left_out"}
    assert expected <= stored.keys()
    assert ReproducedTable.model_validate(stored) == table


def test_page(table: ReproducedTable) -> None:
    lines = markdown(table).splitlines()
    assert lines[0] == "# Table 4 on a generated world"
    assert lines[2:6] == [
        "| row | mIoU | over none | the paper's mIoU | over none | IoU | IoU of things |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| none | 12.00 ± 2.00 |  | 35.78 |  | 50.00 ± 0.00 | 26.00 ± 1.00 |",
        "| all | 16.00 ± 3.61 | +4.00 ± 1.73 | 37.80 | +2.02 | 50.00 ± 0.00 | 26.00 ± 1.00 |",
    ]
    notes = "\n".join(lines[6:])
    for words in (
        "sample standard deviation over the training seeds 0, 1, 2",
        "split `test`: 40 samples",
        "400 steps on 80 samples of split `train`, 101 s a training",
        "mIoU 6.25, IoU 62.50, IoU of things 0.00",
        "All rows: `loss.lambda_cls=0.5`.",
        "Left out: decoding: nobody asked.",
        "World: scenes.train 16, scenes.test 8, seed 0.",
        "Code: 1+a, 1+b. Hardware: Z80.",
        "Command: `protoocc reproduce table4 --steps 400`",
    ):
        assert words in notes, words


def test_page_of_one_seed_and_of_a_figure_that_does_not_exist() -> None:
    assert "| all | 13.00 | +3.00 | 37.80 |" in markdown(table_of([0.10], [0.13]))
    assert "| all |  |  | 37.80 | +2.02 |" in markdown(table_of([0.10, 0.2], [0.13, None]))


def test_rows_of_table_2_are_compared_with_their_own_host() -> None:
    """Each pair by itself, and a row whose host was not trained with nothing."""
    miou = {"voxformer": [0.10], "voxformer-protoocc": [0.13], "symphonies": [0.2], "symphonies-protoocc": [0.19]}
    facts = table_of([0.1], [0.2]).model_dump() | {"table": "table2"}
    common = TableFacts.model_validate({name: facts[name] for name in TableFacts.model_fields})
    made = make_table(common, {name: [seed_result(0, value)] for name, (value,) in miou.items()})
    assert [row.over for row in made.rows] == [None, "voxformer", None, "symphonies"]
    differences = [row.difference.mean for row in made.rows if row.difference is not None]
    assert differences == [pytest.approx(0.03), pytest.approx(-0.01)]
    assert [row.published_difference for row in made.rows] == [None, 0.0088, None, 0.0086]
    page = markdown(made)
    assert "| row | mIoU | over its host |" in page
    assert "presets `voxformer-demo`, `voxformer-demo-protoocc`, `symphonies-demo`" in page
    assert "those of the Small sizes on SemanticKITTI val" in page
    assert "20 steps" not in page
    baseline = make_table(common, {"proposals-as-is": [seed_result(0, 0.01)]})
    assert "proposals-as-is: 20 steps, whatever the others have." in markdown(baseline)
    alone = make_table(common, {"symphonies-protoocc": [seed_result(0, 0.19)]})
    assert (alone.rows[0].over, alone.rows[0].difference) == (None, None)
