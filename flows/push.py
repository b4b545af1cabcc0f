"""Pushes the DVC cache to a remote after asking whether it can be reached. `python -m flows.push [REMOTE]`.

The endpoint and the credentials of an S3 remote come from the environment, see .env.example.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from urllib.parse import urlparse

from flows import stages
from pipeline.core.command import run_command
from services import objects


def check(remote: str, repository: str | Path = ".") -> None:
    """Raises a one-sentence ValueError if `remote` is unknown, or is S3 and refuses us or is down (UnreachableError)."""
    known = stages.remotes(repository)
    if remote not in known:
        raise ValueError(f"the remote {remote!r} is not in .dvc/config; allowed: {', '.join(known)}")
    address = urlparse(known[remote])
    if address.scheme == "s3":
        objects.check_access(objects.client(), address.netloc)


def push(remote: str, log: stages.Log, repository: str | Path = ".") -> None:
    """Raises as `check` and stages.push."""
    check(remote, repository)
    stages.push(remote, log, repository=repository)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("remote", nargs="?", default="s3", help="its name in .dvc/config (default: %(default)s)")
    arguments = parser.parse_args(argv)
    return run_command(lambda: push(arguments.remote, print), failures=(stages.StageError,))


if __name__ == "__main__":
    sys.exit(main())
