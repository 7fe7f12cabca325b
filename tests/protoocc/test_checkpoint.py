from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from protoocc.checkpoint import (
    find_checkpoint,
    link_best,
    list_checkpoints,
    load_network,
    load_state,
    remove_old,
    save_checkpoint,
)
from protoocc.config import TrainConfig
from protoocc.model import ProtoOcc
from schemas.errors import CheckpointError, DataError


def save(folder: Path, config: TrainConfig, step: int = 1) -> Path:
    torch.manual_seed(step)
    return save_checkpoint(
        folder, step, weights=ProtoOcc(config.model).state_dict(), config=config, state={"step": step}
    )


def edit_weights(checkpoint: Path, **changes: torch.Tensor | None) -> None:
    (checkpoint / "SHA256SUMS").unlink(missing_ok=True)
    weights = load_file(checkpoint / "model.safetensors")
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del weights[name]
        else:
            weights[name] = value
    save_file(weights, checkpoint / "model.safetensors")


def test_round_trip(tmp_path: Path, tiny_config: TrainConfig) -> None:
    checkpoint = save(tmp_path / "checkpoints", tiny_config)
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
        "state.pt",
    ]
    torch.manual_seed(1)
    original = ProtoOcc(tiny_config.model).state_dict()
    for path in (checkpoint, checkpoint / "model.safetensors", tmp_path, tmp_path / "checkpoints"):
        model, config = load_network(path)
        assert config == tiny_config
        assert not model.training
        assert all(torch.equal(value, original[name]) for name, value in model.state_dict().items())
    assert load_state(checkpoint / "state.pt") == {"step": 1}


def test_last_and_best_are_kept(tmp_path: Path, tiny_config: TrainConfig) -> None:
    """What a kill left half written goes as well."""
    for step in (1, 2, 3, 10):
        save(tmp_path, tiny_config, step)
    (tmp_path / "step-000009.partial").mkdir()
    assert find_checkpoint(tmp_path).name == "step-000010"
    remove_old(tmp_path, 2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000003", "step-000010"]
    remove_old(tmp_path, 1, None)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000010"]


def test_best_is_a_relative_link(tmp_path: Path, tiny_config: TrainConfig) -> None:
    """It moves with the run, follows the best step, and replaces the folder that a copy made of it."""
    for step in (1, 2):
        save(tmp_path / "run/checkpoints", tiny_config, step)
    link_best(tmp_path / "run/checkpoints", 1)
    moved = (tmp_path / "run").rename(tmp_path / "moved") / "checkpoints"
    assert find_checkpoint(moved / "best").name == "step-000001"
    link_best(moved, 2)
    assert find_checkpoint(moved / "best").name == "step-000002"
    assert load_network(moved / "best")[1] == tiny_config
    shutil.copytree(moved, tmp_path / "copied")
    link_best(tmp_path / "copied", 1)
    assert (tmp_path / "copied/best").is_symlink()
    assert find_checkpoint(tmp_path / "copied/best").name == "step-000001"


def test_same_weights_give_the_same_bytes(tmp_path: Path, tiny_config: TrainConfig) -> None:
    first, second = save(tmp_path / "a", tiny_config), save(tmp_path / "b", tiny_config)
    for name in ("model.safetensors", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_other_names_and_shapes_are_listed(tmp_path: Path, tiny_config: TrainConfig) -> None:
    checkpoint = save(tmp_path, tiny_config)
    edit_weights(checkpoint, extra=torch.zeros(2), decoder__classifier__2__bias=torch.zeros(3))
    edit_weights(checkpoint, decoder__classifier__2__weight=None)
    with pytest.raises(CheckpointError) as error:
        load_network(checkpoint)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("does not fit the network in 3 places:")
    assert lines[1:-1] == [
        "  missing: decoder.classifier.2.weight (18, 8)",
        "  unexpected: extra (2,)",
        "  shape: decoder.classifier.2.bias is (3,) in the file, (18,) in the network",
    ]
    assert "of another release" in lines[-1]


def test_unreadable_files_are_named(tmp_path: Path, tiny_config: TrainConfig) -> None:
    checkpoint = save(tmp_path, tiny_config)
    (checkpoint / "state.pt").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="state.pt is no readable file of weights"):
        load_state(checkpoint / "state.pt")
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[:-9])
    with pytest.raises(
        CheckpointError, match="state.pt is damaged: cut or changed|model.safetensors is damaged: cut or"
    ):
        load_network(checkpoint)
    (checkpoint / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="model.safetensors is no readable file of weights"):
        load_network(checkpoint)
    (checkpoint / "config.json").write_text('{"modell": {}}')
    with pytest.raises(CheckpointError, match="unknown field 'modell'"):
        load_network(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json: not found"):
        load_network(checkpoint)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"path": Path("x")}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="holds Python objects beside its tensors .pathlib"):
        load_state(tmp_path / "state.pt")


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, tiny_config: TrainConfig) -> None:
    whole = save(tmp_path, tiny_config, step=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"cannot write .*step-000002: the file grew over the allowed size"):
            save(tmp_path, tiny_config, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [whole]
    load_network(whole)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no checkpoint and no run with one"):
        load_network(tmp_path / "absent")


def test_damaged_newest_checkpoint_names_the_one_before(tmp_path: Path, tiny_config: TrainConfig) -> None:
    save(tmp_path / "checkpoints", tiny_config, 1)
    newest = save(tmp_path / "checkpoints", tiny_config, 2)
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"is damaged: cut or changed(.|\n)*before it is .*step-000001: name it"):
        load_network(tmp_path)
    load_network(tmp_path / "checkpoints" / "step-000001")
