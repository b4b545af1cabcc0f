"""What a DVC remote holds, against the MD5 by which every object is named: damage is told without a download, and mended.

DVC asks a remote only which names it has. A push therefore takes a damaged object for the right one, and never replaces it. An
object named `ab/cdef...` has the MD5 `abcdef...`; `.dir` at the end is a list of files, whose MD5 is that of the list.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.artifacts import atomic
from services import objects

FOLDER = "files/md5"
# Bytes of a file in a local folder that is still hashed at every push; about 0.1 s each.
HASHED = 64 * 2**20
_NAME = re.compile(r"([0-9a-f]{2})/([0-9a-f]{30})(?:\.dir)?")
_EMPTY = hashlib.md5(b"", usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Survey:
    """total: objects of DVC on the remote; damaged: names of those that are not what they are named; untold: neither way."""

    total: int
    damaged: tuple[str, ...]
    untold: int


class Remote(Protocol):
    address: str
    why_untold: str

    def survey(self) -> Survey: ...

    def replace(self, name: str, file: Path) -> None:
        """Puts `file` where the object `name` is. At no moment is there none."""


class Bucket:
    """A remote on S3. An object that was uploaded in one part has its MD5 as ETag, which a listing tells.

    What changes beneath the server, which goes on to tell the old ETag, is seen by a pull only.
    """

    why_untold = "were uploaded in parts or are encrypted with a key of their own, so that a listing does not tell their MD5"

    def __init__(self, s3: Any, bucket: str, prefix: str) -> None:
        self.s3, self.bucket = s3, bucket
        self.address = "/".join(filter(None, ["s3:/", bucket, prefix.strip("/")]))
        self._prefix = "".join(f"{part}/" for part in (prefix.strip("/"), FOLDER) if part)

    def survey(self) -> Survey:
        """Raises as objects.check_access."""
        total, untold, damaged = 0, 0, []
        for listed in objects.listing(self.s3, self.bucket, self._prefix):
            name = listed.key.removeprefix(self._prefix)
            if (digest := _md5_by_name(name)) is None:
                continue
            total += 1
            if listed.size == 0 and digest != _EMPTY:
                damaged.append(name)
            elif "-" in listed.etag:
                untold += 1
            elif listed.etag != digest:
                if objects.etag_is_md5(self.s3, self.bucket, listed.key):
                    damaged.append(name)
                else:
                    untold += 1
        return Survey(total, tuple(damaged), untold)

    def replace(self, name: str, file: Path) -> None:
        objects.put_file(self.s3, self.bucket, self._prefix + name, file)


class Folder:
    """A remote in a folder of this machine. Files up to `HASHED` bytes are read."""

    why_untold = f"are larger than {HASHED // 2**20} MiB, and are not read at every push"

    def __init__(self, folder: str | Path) -> None:
        self.address = str(folder)
        self._folder = Path(folder) / FOLDER

    def survey(self) -> Survey:
        total, untold, damaged = 0, 0, []
        for file in sorted(self._folder.glob("??/*")):
            name = file.relative_to(self._folder).as_posix()
            if (digest := _md5_by_name(name)) is None:
                continue
            total += 1
            if file.stat().st_size > HASHED:
                untold += 1
            elif _md5(file) != digest:
                damaged.append(name)
        return Survey(total, tuple(damaged), untold)

    def replace(self, name: str, file: Path) -> None:
        target = self._folder / name
        with atomic(target) as copy, open(file, "rb") as source:
            while block := source.read(2**20):
                copy.write(block)
        target.chmod(0o444)  # as DVC does, which takes what is writable for unfinished


def whole(cache: Path, name: str) -> Path | None:
    """The file of the object `name` in the folder files/md5 of a cache, if it has the MD5 that the name says."""
    file = cache / name
    return file if file.is_file() and _md5(file) == _md5_by_name(name) else None


def _md5_by_name(name: str) -> str | None:
    """None: not an object of DVC, as a file that is still being written."""
    found = _NAME.fullmatch(name)
    return None if found is None else found[1] + found[2]


def _md5(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
