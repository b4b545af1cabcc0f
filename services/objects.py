"""Objects in S3 through boto3: endpoint and credentials come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).

Every object is stored with its SHA-256 and checked against it when read. No message holds a secret.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BUCKET = "trilemma"
REGION = "us-east-1"
_BOTH = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must both be set in the environment; see .env.example"


class UnreachableError(ValueError):
    """No answer from the endpoint. Unlike a wrong key, this may pass by itself."""


class Listed(NamedTuple):
    """size in bytes; etag without its quotation marks."""

    key: str
    size: int
    etag: str


def client(endpoint: str | None = None, access_key: str | None = None, secret_key: str | None = None) -> Any:
    """A boto3 S3 client; whatever is None is taken from the environment. One attempt, seconds to connect.

    Raises a one-sentence ValueError if an environment variable of AWS has a value that boto3 refuses.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, PartialCredentialsError

    # Path style: a server on an address without a name, as 127.0.0.1, has no sub-domains for buckets.
    options = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        signature_version="s3v4",
    )
    try:
        session = boto3.session.Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key)
        return session.client("s3", endpoint_url=endpoint, region_name=session.region_name or REGION, config=options)
    except PartialCredentialsError:
        raise ValueError(f"half of the credentials is missing: {_BOTH}") from None
    except (BotoCoreError, ValueError) as error:
        raise ValueError(f"the S3 settings in the environment are not usable: {error}; see .env.example") from None


def check_access(s3: Any, bucket: str) -> None:
    """Lists one object of `bucket`; raises a one-sentence ValueError that says what is wrong and what to do.

    Told apart: no credentials, a wrong key, no right to the bucket, no such bucket, an endpoint that doesn't answer
    (`UnreachableError`).
    """
    with _in_one_sentence(s3, bucket):
        s3.list_objects_v2(Bucket=bucket, MaxKeys=1)


def ensure_bucket(s3: Any, bucket: str) -> None:
    """Makes `bucket` unless it exists and is ours. Raises as `check_access`."""
    with _in_one_sentence(s3, bucket):
        try:
            s3.create_bucket(Bucket=bucket)
        except (s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
            s3.list_objects_v2(Bucket=bucket, MaxKeys=1)


def put(s3: Any, bucket: str, key: str, body: bytes) -> str:
    """Stores `body` at `key` and returns its SHA-256 in hex; the server refuses what arrives with another one."""
    digest = hashlib.sha256(body)
    with _in_one_sentence(s3, bucket):
        s3.put_object(Bucket=bucket, Key=key, Body=body, ChecksumSHA256=base64.b64encode(digest.digest()).decode())
    return digest.hexdigest()


def get(s3: Any, bucket: str, key: str) -> bytes:
    """The bytes stored at `key` by `put`. Raises ValueError if they are missing, changed, or stored without a SHA-256."""
    from botocore.exceptions import FlexibleChecksumError

    changed = f"s3://{bucket}/{key} does not have the SHA-256 it was stored with; delete the object and store it again"
    with _in_one_sentence(s3, bucket):
        try:
            answer = s3.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            body: bytes = answer["Body"].read()
        except s3.exceptions.NoSuchKey:
            raise ValueError(f"s3://{bucket}/{key} does not exist; check the key") from None
        except FlexibleChecksumError:
            raise ValueError(changed) from None
    if "ChecksumSHA256" not in answer:
        raise ValueError(f"s3://{bucket}/{key} was stored without a SHA-256, so it can't be checked; store it again")
    if base64.b64decode(answer["ChecksumSHA256"]) != hashlib.sha256(body).digest():
        raise ValueError(changed)
    return body


def listing(s3: Any, bucket: str, prefix: str) -> Iterator[Listed]:
    """Every object whose key begins with `prefix`, a thousand per request. Raises as `check_access`."""
    with _in_one_sentence(s3, bucket):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for one in page.get("Contents", []):
                yield Listed(one["Key"], one["Size"], one["ETag"].strip('"'))


def etag_is_md5(s3: Any, bucket: str, key: str) -> bool:
    """Whether an ETag without a dash is the MD5 of the object: not where a key of KMS or of the customer encrypts it.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html. Raises as `check_access`.
    """
    with _in_one_sentence(s3, bucket):
        answer = s3.head_object(Bucket=bucket, Key=key)
    return answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer


def put_file(s3: Any, bucket: str, key: str, file: Path) -> None:
    """Stores `file` at `key` in one part, so that its ETag is its MD5; in parts above 5 GiB, where S3 takes no other way."""
    from boto3.s3.transfer import TransferConfig

    one_part = TransferConfig(multipart_threshold=5 * 2**30, use_threads=False)
    with _in_one_sentence(s3, bucket), open(file, "rb") as body:
        s3.upload_fileobj(body, bucket, key, Config=one_part)


@contextlib.contextmanager
def _in_one_sentence(s3: Any, bucket: str) -> Iterator[None]:
    from botocore.exceptions import ClientError, HTTPClientError, NoCredentialsError
    from botocore.exceptions import ConnectionError as NoConnection

    endpoint = s3.meta.endpoint_url
    try:
        yield
    except NoCredentialsError:
        raise ValueError(f"no credentials for {endpoint}: {_BOTH}") from None
    except (HTTPClientError, NoConnection) as error:
        raise UnreachableError(
            f"the S3 endpoint {endpoint} does not answer ({type(error).__name__}); start it (make storage) "
            "or correct AWS_ENDPOINT_URL"
        ) from None
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
            raise ValueError(
                f"{endpoint} refuses the key ({code}): AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not a pair it knows; "
                "load the right ones, see .env.example"
            ) from None
        if code == "NoSuchBucket":
            raise ValueError(
                f"the bucket {bucket!r} does not exist at {endpoint}; make it, or start storage that has it (make storage)"
            ) from None
        if status == 403:
            raise ValueError(
                f"{endpoint} gives this key no access to the bucket {bucket!r} ({code}); ask for it, or use another key"
            ) from None
        if status >= 500 or code in ("SlowDown", "RequestTimeout"):
            raise UnreachableError(f"the S3 endpoint {endpoint} is out of order ({code or status}); try again later") from None
        raise ValueError(f"{endpoint} refuses the request for the bucket {bucket!r} ({code or status})") from None
