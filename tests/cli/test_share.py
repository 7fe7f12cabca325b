"""push, pull and verify as commands: what they say, and a pull that is killed in the middle of a file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from protoocc.data import open_shards
from protoocc.pictures import find_sample, find_split
from schemas.errors import ConfigError
from tests.protoocc.conftest import write_shards
from tests.protoocc.loopback import serve
from tests.protoocc.test_shards_transfer import tree

ROOT = Path(__file__).parents[2]


@pytest.fixture
def own_shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", {"train": [3, 2], "val": [2]})


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_pushed_pulled_and_verified(own_shards: Path, tmp_path: Path) -> None:
    there, mine = tmp_path / "there", tmp_path / "mine"
    assert run("push", own_shards, there).exit_code == 0
    done = run("pull", there, mine, "--split", "train", "--shards", "1", "--json")
    assert json.loads(done.stdout) == {
        "shards": 1,
        "samples": 2,
        "moved": (own_shards / "train-00001.tar").stat().st_size,
        "kept": 0,
    }
    assert "tiny, 1 shard with 2 samples, is whole" in " ".join(run("verify", mine).stderr.split())


def test_verify_fails_with_the_names_of_what_is_wrong(own_shards: Path) -> None:
    tar = own_shards / "val-00000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])
    (own_shards / "train-00001.index.json").write_text("{}")
    result = run("verify", own_shards)
    assert type(result.exception).__name__ == "DataError"
    assert "val-00000.tar: has sha256" in str(result.exception)
    assert "train-00001.index.json" in str(result.exception)


def test_status_of_a_set(own_shards: Path) -> None:
    """Of a folder and of an address alike, from the manifest alone."""
    told = run("status", own_shards).stdout
    with serve(own_shards) as server:
        assert run("status", server.address).stdout == told
        assert set(server.asked) == {"manifest.json"}
    assert "tiny" in told and "nobody said it" in told and "an older protoocc" in told
    assert [line.split() for line in told.splitlines()[-2:]] == [
        ["train", "2", "5", "2", "0.1", "MB"],
        ["val", "1", "2", "1", "0.0", "MB"],
    ]
    found = json.loads(run("status", own_shards, "--json").stdout)
    assert (found["name"], found["shard_format"], len(found["shardlist"])) == ("tiny", 1, 3)
    assert "--verify does not apply" in str(run("status", own_shards, "--verify").exception)


def test_a_sample_is_found_by_key_or_token(own_shards: Path) -> None:
    shards = open_shards(own_shards, "val")
    assert [find_sample(shards, name) for name in ("scene-val-00000-0001", "token-5")] == [1, 0]
    with pytest.raises(ConfigError, match="has no sample 'scene-val-00000-0007'; it has 2, .* Did you mean"):
        find_sample(shards, "scene-val-00000-0007")


def test_a_sample_of_any_split_is_drawn(own_shards: Path, tmp_path: Path) -> None:
    """Without --split; the set is named like that of status, pull and verify."""
    done = run("view", own_shards, "--sample", "scene-val-00000-0001", "--sample", "token-0", "--pictures", tmp_path)
    assert done.exit_code == 0, done.output
    drawn = [Path(line).name for line in done.stdout.splitlines() if line.endswith(".png")]
    assert drawn == ["scene-val-00000-0001.png", "scene-train-00000-0000.png"]
    with pytest.raises(ConfigError, match="no sample 'scene-val-00000-0007' in its splits train, val; it has 7"):
        find_split(own_shards, "scene-val-00000-0007")
    refused = run("view", own_shards, "--shards", own_shards)
    assert "--shards does not apply" in str(refused.exception)
    wrong = run("view", own_shards, "--split", "train", "--sample", "token-5")
    assert "split 'train' of tiny has no sample 'token-5'" in str(wrong.exception)


@pytest.mark.parametrize("numbers", ["3-1", "a", "-1", "1-2-3", "1e3"])
def test_numbers_of_shards(own_shards: Path, tmp_path: Path, numbers: str) -> None:
    result = run("pull", own_shards, tmp_path / "mine", f"--shards={numbers}")
    assert "expected a number such as 5, or two such as 0-3" in str(result.exception)


@pytest.mark.parametrize("kind", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_killed_pull_goes_on_in_the_middle_of_a_file(own_shards: Path, tmp_path: Path, kind: signal.Signals) -> None:
    """What was fetched before is not asked for again."""
    mine, environment = tmp_path / "mine", {**os.environ, "PYTHONPATH": str(ROOT)}
    with serve(own_shards) as server:
        command = [sys.executable, "-m", "cli.main", "pull", server.address, str(mine), "--split", "train"]
        server.pause_s = 0.2
        program = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        while not any(part.stat().st_size > 8192 for part in mine.glob("*.part")):
            assert program.poll() is None
            time.sleep(0.05)
        program.send_signal(kind)
        program.communicate(timeout=30)
        assert program.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[kind]
        assert not (mine / "manifest.json").exists()
        begun = sum(part.stat().st_size for part in mine.glob("*.part"))
        server.pause_s = 0.0
        done = subprocess.run([*command, "--json"], env=environment, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["kept"] == begun
    expected = {name: digest for name, digest in tree(own_shards).items() if name.startswith("train")}
    assert {name: digest for name, digest in tree(mine).items() if name != "manifest.json"} == expected
