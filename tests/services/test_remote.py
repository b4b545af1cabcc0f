"""`dvc push` and `dvc pull` with this repository's remotes: nothing lost, nothing corrupted accepted, refusals that explain."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows import push as pushing
from flows import stages
from services import objects
from tests.services.conftest import Dvc

CLEAN = "Data and pipelines are up to date.\n"


def wipe(scratch: Path) -> None:
    shutil.rmtree(scratch / ".dvc" / "cache")
    (scratch / "copy.txt").unlink()


@pytest.mark.parametrize("remote", ["local", "s3"])
def test_push_wipe_pull_leaves_everything_as_it_was(
    remote: str, scratch: Path, dvc: Dvc, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (scratch / "copy.txt").read_bytes()
    pushing.push(remote, print, scratch)
    wipe(scratch)
    assert dvc("status").stdout != CLEAN
    pulled = dvc("pull", "-r", remote)
    assert pulled.returncode == 0, pulled.stderr
    assert (scratch / "copy.txt").read_bytes() == before
    assert dvc("status").stdout == CLEAN
    assert environment["AWS_SECRET_ACCESS_KEY"] not in capsys.readouterr().out


def test_a_default_pull_is_from_the_local_directory(scratch: Path, dvc: Dvc) -> None:
    assert dvc("push").returncode == 0
    assert list((scratch / ".dvc" / "remote" / "files" / "md5").rglob("*"))
    wipe(scratch)
    assert dvc("pull").returncode == 0
    assert dvc("status").stdout == CLEAN


def test_a_corrupted_object_is_not_accepted(scratch: Path, dvc: Dvc, environment: dict[str, str]) -> None:
    s3 = objects.client()
    before = {found["Key"] for found in s3.list_objects_v2(Bucket=objects.BUCKET, Prefix="dvc/").get("Contents", [])}
    pushing.push("s3", print, scratch)
    after = {found["Key"] for found in s3.list_objects_v2(Bucket=objects.BUCKET, Prefix="dvc/")["Contents"]}
    (key,) = after - before
    body = s3.get_object(Bucket=objects.BUCKET, Key=key)["Body"].read()
    s3.put_object(Bucket=objects.BUCKET, Key=key, Body=body[:-1] + b"X")
    wipe(scratch)
    assert dvc("pull", "-r", "s3").returncode != 0
    assert not (scratch / "copy.txt").exists()
    assert dvc("status").stdout != CLEAN


def test_a_wrong_key_is_refused_before_anything_is_pushed(
    scratch: Path, dvc: Dvc, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-wrong-wrong")
    monkeypatch.chdir(scratch)
    assert pushing.main(["s3"]) == 2
    output = capfd.readouterr()
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert "refuses the key" in output.err
    assert "wrong-wrong-wrong" not in output.out + output.err
    plain = dvc("push", "-r", "s3")
    assert plain.returncode != 0
    assert "wrong-wrong-wrong" not in plain.stdout + plain.stderr


def test_an_unknown_remote_is_named_with_the_known_ones(scratch: Path) -> None:
    with pytest.raises(ValueError, match=r"the remote 's4' is not in \.dvc/config; allowed: local, s3"):
        pushing.push("s4", print, scratch)


def test_a_server_that_dies_ends_the_push_as_trouble_of_storage(
    scratch: Path, dvc: Dvc, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(objects.UnreachableError):
        pushing.push("s3", print, scratch)
    with pytest.raises(stages.StageError) as error:  # as if it had died after the check
        stages.push("s3", print, repository=scratch)
    assert error.value.failure is stages.Failure.STORAGE


def test_a_push_that_takes_too_long_is_ended(scratch: Path, dvc: Dvc) -> None:
    with pytest.raises(stages.StageError, match="time limit") as error:
        stages.push("local", print, repository=scratch, timeout=0.01)
    assert error.value.failure.passes
