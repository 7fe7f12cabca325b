"""Commands for whole sets of shards: push, pull, verify, join, upgrade."""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.given import add_command
from cli.mirrors import mirrored
from cli.options import Json
from cli.progress import progress_bar
from cli.say import name_of, say

if TYPE_CHECKING:
    from protoocc.shards.pull import Transfer

Workers = Annotated[int, typer.Option("--workers", min=1, max=64, help="Files at a time.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only this split. May be repeated; all by default.")]
Numbers = Annotated[
    str | None, typer.Option("--shards", help="Only these shards of each split, such as 0-3 or 5; all by default.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (push, pull, verify, join, upgrade):
        add_command(app, command)


def push(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of shards.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="A folder, or an address: s3://, gs://, hf://.")],
    workers: Workers = 4,
    json: Json = False,
) -> None:
    """Publish a set of shards: checked here first, nothing is sent twice, the manifest last.

    Killed? Run it again: it goes on where it was. Credentials are those of the libraries: ~/.aws, HF_TOKEN and so on.

    Examples:

        protoocc push work/nuscenes/shards s3://my-bucket/nuscenes-occupancy

        protoocc push demo/work/shards hf://datasets/me/occupancy-demo

        protoocc push demo/work/shards /mnt/share/occupancy-demo
    """
    from protoocc.shards.places import Place
    from protoocc.shards.push import push as send

    with _megabytes("push") as update:
        done = send(source, Place(target), workers=workers, update=update)
    _tell(json, vars(done), f"push: {_described(done)} at {name_of(target)}")


def pull(
    source: Annotated[str, typer.Argument(metavar="SRC", help="An address (https://, s3://, gs://, hf://) or folder.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder for them.")],
    split: Splits = None,
    numbers: Numbers = None,
    workers: Workers = 4,
    json: Json = False,
) -> None:
    """Fetch a set of shards, or a part of it: checked by SHA-256, nothing is fetched twice, the manifest last.

    Killed? Run it again: it goes on in the middle of a file. A part can be completed later; train and eval take
    whatever splits are there.

    Examples:

        protoocc pull https://example.org/occupancy-demo shards/demo

        protoocc pull s3://my-bucket/nuscenes-occupancy shards/nuscenes --split val --shards 0-3

        protoocc train --preset demo --shards shards/demo
    """
    from protoocc.shards.places import Place
    from protoocc.shards.pull import pull as fetch

    with _megabytes("pull") as update:
        done = fetch(Place(source), target, splits=split or (), numbers=_range(numbers), workers=workers, update=update)
    _tell(json, vars(done), f"pull: {_described(done)} in {name_of(target)}")


def verify(
    place: Annotated[str, typer.Argument(metavar="PATH|URL", help="A folder of shards, or its address.")],
    split: Splits = None,
    numbers: Numbers = None,
    json: Json = False,
) -> None:
    """Read shards from end to end and compare every byte with what manifest and indexes say.

    Exit code 2 where something is wrong; each fault names its file and, in shards of format 2, the sample.

    Examples:

        protoocc verify demo/work/shards

        protoocc verify https://example.org/occupancy-demo --split val
    """
    from protoocc.shards.places import Place
    from protoocc.shards.verify import verify as read
    from schemas.errors import DataError

    with _megabytes("verify") as update:
        found = read(Place(place), splits=tuple(split or ()), numbers=_range(numbers), update=update)
    if found.faults:
        raise DataError("\n".join(found.faults))
    samples = sum(shard.nsamples for shard in found.shards)
    whole = f"verify: {name_of(found.name)}, {_counted(len(found.shards), samples)}, is whole"
    _tell(json, {"name": found.name, "shards": len(found.shards), "samples": samples}, whole)


def join(
    place: Annotated[str, typer.Argument(metavar="SHARDS|URL", help="Shards without images: a folder or an address.")],
    images: Annotated[Path, typer.Option("--images", help="Root of the raw data, such as the nuScenes folder.")],
) -> None:
    """Join shards of `pack --no-images` with raw data that you have; then they are read like any others.

    Looks at the first sample of each shard. Whoever reads the shards checks every camera file by size and SHA-256;
    `verify` reads all of them.

    Examples:

        protoocc join shards/nuscenes --images /data/nuscenes

        protoocc train --shards shards/nuscenes
    """
    from protoocc.shards.join import join_images

    folder = mirrored(place) if "://" in place else Path(place)
    with progress_bar("join", "shards") as update:
        count = join_images(folder, images, update)
    say(f"join: {name_of(folder)} takes its images from {name_of(images)}; {count} camera files were looked at")


def upgrade(shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder of shards.")]) -> None:
    """Bring shards of an older format to the present one, in place and without the raw data.

    Tars stay as they are; indexes, checksums, card and manifest are made anew. Runs go on with the shards.

    Examples:

        protoocc upgrade work/nuscenes/shards
    """
    from pipelines.shard_upgrade import upgrade_shards

    with progress_bar("upgrade", "shards") as update:
        is_new = upgrade_shards(shards, update)
    say(f"upgrade: {name_of(shards)} {'has the present format now' if is_new else 'has the present format already'}")


def _tell(json: bool, answer: Mapping[str, Any], sentence: str) -> None:
    """The sentence for people, or the answer for programs on standard output."""
    if json:
        typer.echo(json_module.dumps(answer, indent=1))
    else:
        say(sentence)


def _described(done: Transfer) -> str:
    already = f", {done.kept / 1e6:.1f} MB were there already" if done.kept else ""
    return f"{_counted(done.shards, done.samples)}, {done.moved / 1e6:.1f} MB moved{already},"


def _counted(shards: int, samples: int) -> str:
    return f"{shards} shard{'s' * (shards != 1)} with {samples} sample{'s' * (samples != 1)}"


def _range(numbers: str | None) -> range | None:
    """Such as `0-3` or `5`.

    Raises:
        ConfigError: it is something else.
    """
    from schemas.errors import ConfigError

    if numbers is None:
        return None
    found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", numbers)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise ConfigError(f"--shards {numbers}: expected a number such as 5, or two such as 0-3")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


@contextmanager
def _megabytes(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts megabytes."""
    with progress_bar(title, "MB") as update:
        yield lambda done, total: update(done // 10**6, max(total // 10**6, 1))
