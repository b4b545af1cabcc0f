"""Damaged objects on a real S3 server and in a local folder: named by a push, mended from the cache, never deleted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import push as pushing
from services import objects, remote_objects
from tests.services.conftest import Dvc

ROOT = "dvc/files/md5/"
Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "a bit flipped": lambda body: body[:-1] + bytes([body[-1] ^ 1]),
    "cut to ten bytes": lambda body: body[:10],
    "nothing left": lambda body: b"",
}


@pytest.fixture
def folder(scratch: Path, dvc: Dvc) -> Path:
    """A tracked folder of two files beside copy.txt: with its list, four objects."""
    made = scratch / "pictures"
    made.mkdir()
    (made / "one").write_text(f"{scratch} one\n" * 40)
    (made / "two").write_text(f"{scratch} two\n" * 50)
    assert dvc("add", "pictures").returncode == 0
    return made


def name_of(body: bytes, suffix: str = "") -> str:
    digest = hashlib.md5(body).hexdigest()
    return f"{digest[:2]}/{digest[2:]}{suffix}"


def stored(name: str) -> bytes:
    body: bytes = objects.client().get_object(Bucket=objects.BUCKET, Key=ROOT + name)["Body"].read()
    return body


def store(name: str, body: bytes) -> None:
    objects.client().put_object(Bucket=objects.BUCKET, Key=ROOT + name, Body=body)


def said(run: Callable[[], object]) -> str:
    with pytest.raises(pushing.DamageError) as error:
        run()
    assert "\n" not in str(error.value)
    return str(error.value)


def wipe(scratch: Path) -> None:
    shutil.rmtree(scratch / ".dvc" / "cache")
    (scratch / "copy.txt").unlink()
    shutil.rmtree(scratch / "pictures")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_object_is_named_then_mended_then_pulled(
    damage: Damage, scratch: Path, dvc: Dvc, folder: Path, environment: dict[str, str]
) -> None:
    """It lies in a folder, whose list is on the remote: DVC itself would not push it again even if it were deleted."""
    one, two, copy = ((scratch / name).read_bytes() for name in ("pictures/one", "pictures/two", "copy.txt"))
    pushing.push("s3", print, scratch)
    store(name_of(one), damage(one))

    message = said(lambda: pushing.push("s3", print, scratch))
    assert message.startswith("1 of 4 objects on s3://trilemma/dvc are damaged; ")
    assert f"has {name_of(one)} whole: python -m flows.push s3 --mend" in message
    assert "does not have" not in message
    assert stored(name_of(one)) == damage(one)  # without --mend nothing is changed

    lines: list[str] = []
    pushing.push("s3", lines.append, scratch, mend=True)
    assert f"mended {name_of(one)} on s3://trilemma/dvc" in lines
    assert stored(name_of(one)) == one
    wipe(scratch)
    pulled = dvc("pull", "-r", "s3")
    assert pulled.returncode == 0, pulled.stderr
    assert [(scratch / name).read_bytes() for name in ("pictures/one", "pictures/two", "copy.txt")] == [one, two, copy]


def test_a_damaged_list_of_a_folder_is_mended_too(scratch: Path, dvc: Dvc, folder: Path, environment: dict[str, str]) -> None:
    pushing.push("s3", print, scratch)
    (cached,) = (scratch / ".dvc" / "cache" / "files" / "md5").rglob("*.dir")
    listed = cached.read_bytes()
    assert {entry["relpath"] for entry in json.loads(listed)} == {"one", "two"}
    store(name_of(listed, ".dir"), listed[:-1])
    assert name_of(listed, ".dir") in said(lambda: pushing.push("s3", print, scratch))
    pushing.push("s3", print, scratch, mend=True)
    assert stored(name_of(listed, ".dir")) == listed


def test_what_is_whole_is_not_spoken_of(scratch: Path, dvc: Dvc, folder: Path, environment: dict[str, str]) -> None:
    lines: list[str] = []
    pushing.push("s3", lines.append, scratch)
    pushing.push("s3", lines.append, scratch, mend=True)
    assert not [line for line in lines if "damaged" in line or "mended" in line or "checked" in line]
    assert any("Everything is up to date" in line for line in lines)


def test_a_damaged_object_that_the_cache_lacks_is_named_and_left(
    scratch: Path,
    dvc: Dvc,
    folder: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Of three damaged objects the cache has one, lacks another, and has the third with a bit flipped."""
    one, two, copy = ((scratch / name).read_bytes() for name in ("pictures/one", "pictures/two", "copy.txt"))
    pushing.push("s3", print, scratch)
    elsewhere = b"of another checkout"
    store(name_of(elsewhere), elsewhere[:4])
    for body in (one, copy):
        store(name_of(body), body[:7])
    cached = scratch / ".dvc" / "cache" / "files" / "md5" / name_of(copy)
    cached.chmod(0o644)
    cached.write_bytes(copy[:-1] + b"X")
    cached.chmod(0o444)

    monkeypatch.chdir(scratch)
    assert pushing.main(["s3", "--mend"]) == 1
    output = capfd.readouterr()
    assert output.err.startswith("error: 2 of 5 objects on s3://trilemma/dvc are damaged; the cache here does not have ")
    assert output.err.count("\n") == 1
    assert name_of(elsewhere) in output.err and name_of(copy) in output.err
    assert name_of(one) not in output.err and f"mended {name_of(one)}" in output.out
    assert stored(name_of(one)) == one
    assert stored(name_of(elsewhere)) == elsewhere[:4]  # it may be all that is left
    assert stored(name_of(copy)) == copy[:7]
    assert stored(name_of(two)) == two


def test_new_outputs_are_pushed_in_spite_of_old_damage(scratch: Path, dvc: Dvc, environment: dict[str, str]) -> None:
    store(name_of(b"old"), b"ol")
    said(lambda: pushing.push("s3", print, scratch))
    copy = (scratch / "copy.txt").read_bytes()
    assert stored(name_of(copy)) == copy


def test_many_damaged_objects_are_counted_and_the_first_named(scratch: Path, dvc: Dvc, environment: dict[str, str]) -> None:
    names = sorted(name_of(str(number).encode()) for number in range(5))
    for name in names:
        store(name, b"other")
    message = said(lambda: pushing.push("s3", print, scratch))
    assert message.startswith("5 of 6 objects")
    assert f"{', '.join(names[:3])} and 2 more" in message
    assert names[3] not in message


def test_objects_in_parts_are_counted_and_said(scratch: Path, dvc: Dvc, environment: dict[str, str]) -> None:
    s3, body = objects.client(), b"p" * (5 * 2**20) + b"rest"
    place = {"Bucket": objects.BUCKET, "Key": ROOT + name_of(body)}
    upload = s3.create_multipart_upload(**place)["UploadId"]
    parts: list[dict[str, Any]] = []
    for number, part in enumerate((body[: 5 * 2**20], body[5 * 2**20 :]), 1):
        answer = s3.upload_part(**place, UploadId=upload, PartNumber=number, Body=part)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    s3.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
    lines: list[str] = []
    pushing.push("s3", lines.append, scratch)
    assert any(line.startswith("not checked: 1 of 2 objects on s3://trilemma/dvc were uploaded in parts") for line in lines)


def test_an_etag_that_is_no_md5_accuses_nobody(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon's, for objects that a key of KMS encrypts; answers of the server with that header put in."""
    store(name_of(b"body"), b"ydob")
    s3 = objects.client()
    bucket = remote_objects.Bucket(s3, objects.BUCKET, "/dvc")
    assert bucket.survey() == remote_objects.Survey(total=1, damaged=(name_of(b"body"),), untold=0)
    ask = s3.head_object
    monkeypatch.setattr(s3, "head_object", lambda **place: {**ask(**place), "ServerSideEncryption": "aws:kms"})
    assert bucket.survey() == remote_objects.Survey(total=1, damaged=(), untold=1)


def test_what_is_not_an_object_of_dvc_is_not_looked_at(environment: dict[str, str]) -> None:
    for name in ("README", "ab/short", "ab/" + "0" * 30 + ".tmp", "AB/" + "0" * 30):
        store(name, b"anything")
    assert remote_objects.Bucket(objects.client(), objects.BUCKET, "dvc").survey() == remote_objects.Survey(0, (), 0)


def test_a_remote_in_a_folder_is_mended_in_the_same_way(scratch: Path, dvc: Dvc, folder: Path) -> None:
    one = (folder / "one").read_bytes()
    pushing.push("local", print, scratch)
    there = scratch / ".dvc" / "remote" / "files" / "md5"
    lost = there / name_of(b"of another checkout")
    lost.parent.mkdir(exist_ok=True)
    for file, body in ((there / name_of(one), one[:10]), (lost, b"of")):
        if file.exists():
            file.chmod(0o644)
        file.write_bytes(body)
        file.chmod(0o444)  # DVC trusts what is read-only
    message = said(lambda: pushing.push("local", print, scratch))
    assert f"has {name_of(one)} whole: python -m flows.push local --mend" in message
    assert f"does not have {name_of(b'of another checkout')} whole" in message
    said(lambda: pushing.push("local", print, scratch, mend=True))
    assert (there / name_of(one)).read_bytes() == one
    assert lost.read_bytes() == b"of"
    lost.unlink()
    pushing.push("local", print, scratch)
    wipe(scratch)
    assert dvc("pull", "-r", "local").returncode == 0
    assert (folder / "one").read_bytes() == one


def test_large_files_of_a_folder_are_counted_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_objects, "HASHED", 100)
    folder = remote_objects.Folder(tmp_path)
    for size in (100, 101):
        file = tmp_path / remote_objects.FOLDER / name_of(b"a" * size)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"b" * size)
    assert folder.survey() == remote_objects.Survey(total=2, damaged=(name_of(b"a" * 100),), untold=1)
