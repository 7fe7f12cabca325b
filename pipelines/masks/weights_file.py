"""Which weights a generator reads: their SHA-256, compared with what was asked for or published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipelines.files import sha256_of
from schemas.errors import CheckpointError


def weights_fingerprint(path: Path, expected: str | None, published: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of a file of weights, as the input of a stage.

    Args:
        path: the file.
        expected: what the user asked for; None takes what was published under the file's name, or any.
        published: file name -> SHA-256.

    Raises:
        CheckpointError: the file has another one.
    """
    found = sha256_of([path])
    wanted = expected or published.get(path.name, found)
    if found != wanted:
        source = "--set sha256 says" if expected else "the published file has"
        remedy = "Pass the matching file" if expected else "Download it again, or give weights of your own another name"
        raise CheckpointError(f"{path} has SHA-256 {found}, {source} {wanted}. {remedy}.")
    return {"checkpoint": found}
