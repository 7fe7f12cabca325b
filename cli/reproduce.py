"""`protoocc reproduce`: the rows of one of the paper's ablation tables, trained on a generated world."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import add_command, refuse, set_places
from cli.options import Changes, Json, expected, sized
from cli.say import name_of, say
from cli.world import DATASETS, KITTI_WORLD, World, make_shards, make_world

if TYPE_CHECKING:
    from protoocc.ablations import Ablation, Masks
    from protoocc.config import TrainConfig
    from protoocc.reproduce import SeedResult
    from protoocc.reproduced_table import ReproducedTable, TableFacts

TABLES = ("table2", "table4", "table5", "table6", "table7")
SPLITS = ("test", "val")
TRAIN = "train"
MASKS: tuple[Masks, ...] = ("seeds-299", "seeds-91", "sam")
WORLD = World({TRAIN: 16, "val": 4, "test": 8}, keyframes=5, width=288, seed=0)
NEEDS_SAM = "it needs --sam-checkpoint, the published weights of Segment Anything"

TrainScenes = Annotated[int | None, sized("--train-scenes", 1, "Scenes to train on, 16 by default; table2: 14.")]
ValScenes = Annotated[int | None, sized("--val-scenes", 1, "Unseen scenes for --split val, 4 by default; table2: 3.")]
TestScenes = Annotated[int | None, sized("--test-scenes", 1, "Unseen ones for --split test, 8 by default; table2: 5.")]
Keyframes = Annotated[int | None, sized("--keyframes", 1, "Keyframes of each scene, 5 by default; table2: 4.")]
Width = Annotated[int | None, sized("--width", 200, "Width of the images, 288 pixels by default; table2: 620.")]


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    table: str
    rows: tuple[str, ...]
    """Chosen ones; none: all."""
    steps: int
    seeds: int
    split: str
    changes: tuple[str, ...]
    world: World
    sam_checkpoint: Path | None = None

    def command(self) -> str:
        """The command with all sizes and without folders, so that it means the same when defaults change."""
        sizes: dict[str, object] = {f"{split}-scenes": count for split, count in self.world.scenes.items()}
        sizes |= {"keyframes": self.world.keyframes, "width": self.world.width, "world-seed": self.world.seed}
        sizes |= {"steps": self.steps, "seeds": self.seeds, "split": self.split}
        if self.sam_checkpoint is not None:
            sizes["sam-checkpoint"] = self.sam_checkpoint.name
        repeated = [("row", row) for row in self.rows] + [("set", change) for change in self.changes]
        words = [word for name, value in (*sizes.items(), *repeated) for word in (f"--{name}", str(value))]
        return shlex.join(["protoocc", "reproduce", self.table, *words])


@dataclass(frozen=True)
class Training:
    """One row with one seed."""

    config: TrainConfig
    run: Path
    masks: Masks


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, reproduce)


def reproduce(
    table: Annotated[str, typer.Argument(help="table2, table4, table5, table6 or table7.", metavar="TABLE")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the trainings and the table.")] = Path("reproduce"),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Folder of the generated world and its shards, which several --out may share; `<out>/data` by "
            "default.",
            show_default=False,
        ),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option("--row", help="Only this row, such as none. May be repeated; all by default.", show_default=False),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps of a row.")] = 400,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each row, with the seeds 0, 1, ...")] = 3,
    split: Annotated[
        str, typer.Option("--split", help="Scored scenes: test, or val for a search of settings.")
    ] = "test",
    train_scenes: TrainScenes = None,
    val_scenes: ValScenes = None,
    test_scenes: TestScenes = None,
    keyframes: Keyframes = None,
    width: Width = None,
    world_seed: Annotated[int, typer.Option("--world-seed", help="Seed of the world.")] = 0,
    sam_checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--sam-checkpoint",
            help="Weights of Segment Anything for the row sam of table7, which is left out without them.",
            show_default=False,
        ),
    ] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Train the rows of a table of the paper on a generated world, at reduced size, and write the table.

    Rows are changes of the preset `protoocc-mini`, those of table2 presets of their own on generated sequences in
    SemanticKITTI's form: a training takes minutes, and there is one for each row and seed. The table has mean and
    standard deviation over the seeds beside the paper's figures: TABLE.md and TABLE.json in --out, written after each
    seed. Killed? Run it again: it continues where it was. Rows that mean the same in several tables are trained once.
    --set changes all rows.

    Examples:

        protoocc reproduce table4

        protoocc reproduce table2 --row symphonies --row symphonies-protoocc

        protoocc reproduce table7 --steps 800 --seeds 5 --sam-checkpoint weights/sam_vit_b_01ec64.pth

        protoocc reproduce table4 --row none --row all --steps 50 --seeds 1

        protoocc reproduce table4 --split val --set loss.lambda_cls=0.5 --data reproduce/data --out search/contrast
    """
    from pipelines.masks import SamConfig
    from pipelines.masks.sam_checkpoint import find_checkpoint
    from protoocc.reproduce import check_changes
    from protoocc.reproduced_table import markdown

    _check_words(table, split)
    refuse(("sam_checkpoint",), table != "table7", "only table7 has a row with masks of Segment Anything")
    scenes = {TRAIN: train_scenes, "val": val_scenes, "test": test_scenes}
    world = (KITTI_WORLD if table == "table2" else WORLD).resized(scenes, keyframes, width, world_seed)
    plan = Plan(table, tuple(row or ()), steps, seeds, split, tuple(changes or ()), world, sam_checkpoint)
    rows, left_out = choose_rows(plan)
    if sam_checkpoint is not None:
        find_checkpoint(SamConfig(checkpoint=sam_checkpoint))  # refused before minutes of work
    check_changes(rows, plan.changes)
    rounds = [plan_seed(plan, rows, seed, out / "runs") for seed in range(seeds)]
    shards = make_data(plan, rows, data or out / "data")
    made = train_rounds(rounds, shards, describe(plan, left_out, next(iter(shards.values()))), out)
    typer.echo(made.model_dump_json(indent=1) if as_json else markdown(made))


def _check_words(table: str, split: str) -> None:
    """Refuses unknown tables and splits.

    Raises:
        ConfigError: the word is another one.
    """
    if table not in TABLES:
        raise expected("TABLE", table, TABLES)
    if split not in SPLITS:
        raise expected("--split", split, SPLITS)


def choose_rows(plan: Plan) -> tuple[dict[str, Ablation], dict[str, str]]:
    """Rows to train, and those that are left out with the reason.

    Raises:
        ConfigError: no such row, or none is left.
    """
    from protoocc.ablations import rows_of
    from schemas.errors import ConfigError

    known = rows_of(plan.table)
    for name in plan.rows:
        if name not in known:
            raise expected("--row", name, known)
    wanted = {name: row for name, row in known.items() if not plan.rows or name in plan.rows}
    left_out = {name: NEEDS_SAM for name, row in wanted.items() if row.masks == "sam" and plan.sam_checkpoint is None}
    rows = {name: row for name, row in wanted.items() if name not in left_out}
    if not rows:
        raise ConfigError(f"--row {', '.join(left_out)}: {NEEDS_SAM}")
    return rows, left_out


def plan_seed(plan: Plan, rows: Mapping[str, Ablation], seed: int, runs: Path) -> dict[str, Training]:
    """The trainings of all rows with one seed; what is there already must have the same settings.

    Raises:
        ConfigError: a row was trained with other settings, or a change is no setting.
    """
    from protoocc.reproduce import check_settings, row_config, run_name

    planned = {}
    for name, row in rows.items():
        config = row_config(row, steps=plan.steps, seed=seed, changes=plan.changes)
        run = runs / run_name(f"{plan.table}-{name}") / f"seed-{seed}"
        check_settings(run, config)
        planned[name] = Training(config, run, row.masks)
    return planned


def make_data(plan: Plan, rows: Mapping[str, Ablation], folder: Path) -> dict[Masks, Path]:
    """Shards by the masks that they hold, each in a work folder of its own; only those that the rows need."""
    from pipelines.masks import SamConfig, SeedsConfig
    from protoocc.inference import default_device

    datasets = make_world(folder, plan.world, {masks: f"work-{masks}" for masks in MASKS})
    generators: dict[Masks, SeedsConfig | SamConfig] = {
        "seeds-299": SeedsConfig(segments=299),
        "seeds-91": SeedsConfig(segments=91),
        "sam": SamConfig(checkpoint=plan.sam_checkpoint, device=default_device().type),
    }
    shards = {}
    for masks in dict.fromkeys(row.masks for row in rows.values()):
        set_places({"name": masks, "datasets": folder / DATASETS})
        shards[masks] = make_shards(datasets[masks], generators[masks])
    return shards


def describe(plan: Plan, left_out: dict[str, str], shards: Path) -> TableFacts:
    """What all rows have in common."""
    from cli.model import count_samples
    from protoocc.reproduced_table import TableFacts

    return TableFacts(
        table=plan.table,
        split=plan.split,
        samples=count_samples(shards, plan.split),
        train_samples=count_samples(shards, TRAIN),
        steps=plan.steps,
        changes=plan.changes,
        world=dataclasses.asdict(plan.world),
        left_out=left_out,
        command=plan.command(),
    )


def train_rounds(
    rounds: Sequence[Mapping[str, Training]], shards: Mapping[Masks, Path], facts: TableFacts, out: Path
) -> ReproducedTable:
    """Trains and scores seed by seed, and writes the table after each of them.

    Args:
        rounds: for each seed the trainings by row name.
        shards: by masks.
        facts: what they have in common.
        out: where the table goes.

    Returns:
        The table of all seeds.
    """
    from protoocc.reproduce import read_result
    from protoocc.reproduced_table import make_table

    results: dict[str, list[SeedResult]] = {name: [] for name in rounds[0]}
    numbers = count(1)
    for trainings in rounds:
        for name, training in trainings.items():
            seed, total = training.config.seed, len(rounds) * len(trainings)
            say(f"reproduce: {facts.table}, training {next(numbers)} of {total}: {name}, seed {seed}")
            learn(training, shards[training.masks], facts.split)
            results[name].append(read_result(training.run, seed))
        table = make_table(facts, results)
        write_table(out, table)
    return table


def learn(training: Training, shards: Path, split: str) -> None:
    """Trains and scores one row with one seed, as far as that is not done; tables have no RayIoU."""
    from cli.evaluate import eval_config, evaluate_with_bar
    from cli.model import train_with_bar
    from protoocc.data import open_shards
    from protoocc.reproduce import is_scored, is_trained

    run = training.run
    if not is_trained(run, training.config, open_shards(shards, TRAIN)):
        train_with_bar(training.config, shards, run, resume=True)
    if not is_scored(run, split):
        evaluate_with_bar(run, shards, split, eval_config(None, rays=False))


def write_table(out: Path, table: ReproducedTable) -> None:
    """Writes the table as Markdown and JSON; scores of a search do not take the place of the table's own."""
    from protoocc.reproduced_table import markdown
    from schemas.files import write_bytes

    name = table.table if table.split == SPLITS[0] else f"{table.table}-{table.split}"
    for suffix, text in ((".md", markdown(table)), (".json", f"{table.model_dump_json(indent=1)}\n")):
        write_bytes(out / f"{name}{suffix}", text.encode())
    say(f"reproduce: {table.table} of seeds {', '.join(map(str, table.seeds))} in {name_of(out / f'{name}.md')}")
