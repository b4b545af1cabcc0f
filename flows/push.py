"""Pushes the DVC cache to a remote and looks whether what lies there is whole. `python -m flows.push [REMOTE] [--mend]`.

The endpoint and the credentials of an S3 remote come from the environment, see .env.example.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from urllib.parse import urlparse

from flows import stages
from pipeline.core.command import run_command
from services import objects, remote_objects

SHOWN = 3


class DamageError(RuntimeError):
    """Objects on the remote are not what they are named. One sentence: how many, the first few, what to do."""


def check(remote: str, repository: str | Path = ".") -> None:
    """Raises a one-sentence ValueError if `remote` is unknown, or is S3 and refuses us or is down (UnreachableError)."""
    address = urlparse(_url(remote, repository))
    if address.scheme == "s3":
        objects.check_access(objects.client(), address.netloc)


def push(remote: str, log: stages.Log, repository: str | Path = ".", mend: bool = False) -> None:
    """Pushes, then looks at every object of the remote: new outputs are safe before old damage is complained of.

    mend: replace damaged objects first, by those of the cache that are whole. The rest stays as it is: a damaged object may
    be all that is left. Raises as `check` and stages.push, and DamageError.
    """
    check(remote, repository)
    there = _open(_url(remote, repository))
    if mend and there is None:
        raise ValueError(f"--mend: the remote {remote!r} is neither S3 nor a local folder; delete the damaged objects by hand")
    if mend and there is not None:
        _mend(there, stages.cache(repository), log)
    try:
        stages.push(remote, log, repository=repository)
    except stages.StageError as error:
        # DVC reads the lists of folders that are on the remote, and calls a damaged one an unexpected error.
        if there is not None and not error.failure.passes:
            _look(there, remote, stages.cache(repository), log)
        raise
    if there is not None:
        _look(there, remote, stages.cache(repository), log)


def _mend(there: remote_objects.Remote, cache: Path, log: stages.Log) -> None:
    # Replaced, not deleted for DVC to push again: it pushes only what the workspace uses, and takes a file to be on the
    # remote if the list of its folder is.
    for name in there.survey().damaged:
        if (file := remote_objects.whole(cache, name)) is not None:
            there.replace(name, file)
            log(f"mended {name} on {there.address}")


def _look(there: remote_objects.Remote, remote: str, cache: Path, log: stages.Log) -> None:
    found = there.survey()
    if found.untold:
        log(f"not checked: {found.untold} of {found.total} objects on {there.address} {there.why_untold}; dvc pull checks them")
    if not found.damaged:
        return
    lost = [name for name in found.damaged if remote_objects.whole(cache, name) is None]
    held = [name for name in found.damaged if name not in set(lost)]
    advice = []
    if held:
        advice.append(f"the cache here has {_names(held)} whole: python -m flows.push {remote} --mend")
    if lost:
        advice.append(
            f"the cache here does not have {_names(lost)} whole: push with --mend from a checkout that has, or delete there "
            "and make anew what is needed (dvc repro)"
        )
    raise DamageError(f"{len(found.damaged)} of {found.total} objects on {there.address} are damaged; {'; '.join(advice)}")


def _names(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _url(remote: str, repository: str | Path) -> str:
    known = stages.remotes(repository)
    if remote not in known:
        raise ValueError(f"the remote {remote!r} is not in .dvc/config; allowed: {', '.join(known)}")
    return known[remote]


def _open(url: str) -> remote_objects.Remote | None:
    """None: a kind of remote that cannot be looked at without a download."""
    address = urlparse(url)
    if address.scheme == "s3":
        return remote_objects.Bucket(objects.client(), address.netloc, address.path)
    return None if address.scheme else remote_objects.Folder(url)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("remote", nargs="?", default="s3", help="its name in .dvc/config (default: %(default)s)")
    parser.add_argument("--mend", action="store_true", help="first replace damaged objects there that the cache here has whole")
    arguments = parser.parse_args(argv)
    failures = (stages.StageError, DamageError)
    return run_command(lambda: push(arguments.remote, print, mend=arguments.mend), failures=failures)


if __name__ == "__main__":
    sys.exit(main())
