"""Objects, and what a user is told when access fails, against a real server."""

from __future__ import annotations

import base64
import hashlib
import io

import pytest

from services import objects
from services.object_store import Server


def test_put_and_get_return_the_same_bytes_and_their_sha256(environment: dict[str, str]) -> None:
    s3, body = objects.client(), bytes(range(256)) * 1000
    assert objects.put(s3, objects.BUCKET, "objects/one", body) == hashlib.sha256(body).hexdigest()
    assert objects.get(s3, objects.BUCKET, "objects/one") == body
    stored = s3.head_object(Bucket=objects.BUCKET, Key="objects/one", ChecksumMode="ENABLED")
    assert base64.b64decode(stored["ChecksumSHA256"]) == hashlib.sha256(body).digest()


def test_an_object_stored_without_a_checksum_is_not_trusted(environment: dict[str, str]) -> None:
    s3 = objects.client()
    s3.put_object(Bucket=objects.BUCKET, Key="objects/bare", Body=b"abc")
    with pytest.raises(ValueError, match=r"objects/bare was stored without a SHA-256"):
        objects.get(s3, objects.BUCKET, "objects/bare")


def test_bytes_that_changed_underway_are_refused(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = objects.client()
    objects.put(s3, objects.BUCKET, "objects/changed", b"abcdef")

    stored = s3.get_object(Bucket=objects.BUCKET, Key="objects/changed", ChecksumMode="ENABLED")
    stored["Body"] = io.BytesIO(b"abcdeX")
    monkeypatch.setattr(s3, "get_object", lambda **_: stored)
    with pytest.raises(ValueError, match=r"objects/changed does not have the SHA-256 it was stored with"):
        objects.get(s3, objects.BUCKET, "objects/changed")


def test_a_missing_object_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"s3://trilemma/objects/none does not exist"):
        objects.get(objects.client(), objects.BUCKET, "objects/none")


def test_making_a_bucket_twice_keeps_its_objects(environment: dict[str, str]) -> None:
    s3 = objects.client()
    objects.ensure_bucket(s3, "twice")
    objects.put(s3, "twice", "kept", b"kept")
    objects.ensure_bucket(s3, "twice")
    assert objects.get(s3, "twice", "kept") == b"kept"


def test_access_is_given_with_the_right_key(environment: dict[str, str]) -> None:
    objects.check_access(objects.client(), objects.BUCKET)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_wrong_key_is_refused_in_one_sentence_without_the_secret(
    name: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "wrong-wrong-wrong")
    with pytest.raises(ValueError, match=r"refuses the key .*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as refusal:
        objects.check_access(objects.client(), objects.BUCKET)
    assert not isinstance(refusal.value, objects.UnreachableError)
    assert "\n" not in str(refusal.value)
    assert environment["AWS_SECRET_ACCESS_KEY"] not in str(refusal.value)
    assert "wrong-wrong-wrong" not in str(refusal.value)


@pytest.mark.parametrize("missing", [("AWS_SECRET_ACCESS_KEY",), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")])
def test_missing_credentials_are_named(
    missing: tuple[str, ...], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=r"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must both be set"):
        objects.check_access(objects.client(), objects.BUCKET)


def test_a_missing_bucket_is_named_and_not_made(environment: dict[str, str]) -> None:
    s3 = objects.client()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"the bucket 'nowhere' does not exist"):
            objects.put(s3, "nowhere", "key", b"body")
        with pytest.raises(ValueError, match=r"the bucket 'nowhere' does not exist"):
            objects.check_access(s3, "nowhere")


def test_an_endpoint_that_is_down_may_be_tried_again(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(objects.UnreachableError, match=r"http://127\.0\.0\.1:9 does not answer"):
        objects.check_access(objects.client(), objects.BUCKET)


def test_an_address_that_is_none_is_said(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1 8333")
    with pytest.raises(ValueError, match=r"S3 settings in the environment are not usable"):
        objects.client()
