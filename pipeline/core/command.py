"""What every command's `main` shares: arguments first, heavy imports after, one sentence for what a user can mend.

Exit statuses of every command of this project:

    0    done
    1    the machine or another program failed: a full disk, a folder that cannot be written, a server that ended; or data or
         samples do not meet what is expected of them
    2    a mistake in the arguments, in params.yaml, or in files that are missing, damaged or stale
    130  ended by Ctrl-C (SIGINT); a training has saved a checkpoint
    141  whoever read our output went away (SIGPIPE), as in `... | head -1`
    143  ended by SIGTERM; a training has saved a checkpoint

1 and 2 come with one sentence on stderr. A traceback is a fault of ours.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

T = TypeVar("T")

FAILED, MISTAKE, INTERRUPTED, UNREAD, TERMINATED = 1, 2, 130, 141, 143

# What to do about an OSError; what is not here has the system's own words alone.
_ADVICE = {
    errno.ENOSPC: "free space there, then give the command again",
    errno.EDQUOT: "free space there, then give the command again",
    errno.EFBIG: "a file may not be that large here: raise the limit (ulimit -f) or use another disk",
    errno.EACCES: "make it readable and writable for you, or name another place",
    errno.EPERM: "make it readable and writable for you, or name another place",
    errno.EROFS: "make it writable, or name another place",
    errno.EEXIST: "it is a file where a folder is needed; move it away",
    errno.EISDIR: "it is a folder where a file is needed; move it away",
    errno.ENOENT: "make it, or name another place",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "free memory, or ask for less at once",
}


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that what is half done is cleaned up as for Ctrl-C."""


def path(text: str) -> Path:
    """The type of an argument that names a file or a folder: `~` is the home folder, also where the shell leaves it."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text} names no home folder: {error}") from None


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--params`; builds before anything heavy is imported, so that --help answers at once."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--params", type=path, default=Path("params.yaml"), help="the parameter file (default: %(default)s)")
    return made


def choose(block: dict[str, T], name: str, key: str) -> T:
    """block[name], or a ValueError that lists the names."""
    if name not in block:
        raise ValueError(f"{key} has no {name!r}; allowed: {', '.join(block) or 'none, as it is empty'}")
    return block[name]


def writable(*folders: Path) -> None:
    """Raises OSError, with the file that is in the way, where a folder cannot be made or written: before long work begins.

    Tried by a temporary file in the folder, or in the nearest one above that exists; nothing is left behind.
    """
    for folder in folders:
        nearest = folder.absolute()
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        if not nearest.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), _shown(nearest))
        try:
            with tempfile.TemporaryFile(dir=nearest):
                pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, _shown(nearest)) from None


def run_command(work: Callable[[], object], failures: tuple[type[Exception], ...] = ()) -> int:
    """Runs `work`; returns the exit status. `failures`: what else ends with one sentence and status 1."""
    # Torch and Great Expectations import hundreds of thousands of objects that stay: looking through them for cycles again and
    # again is a quarter of an import.
    gc.set_threshold(200_000, 20, 20)
    # torch says it of itself on the first forward-mode derivative; nobody who runs a stage can act on it.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    try:
        with _sigterm_raises():
            work()
            sys.stdout.flush()
    except ValueError as error:
        return _said(f"error: {error}", MISTAKE)
    except KeyboardInterrupt:
        return _said("interrupted", INTERRUPTED)
    except _Terminated:
        return _said("terminated", TERMINATED)
    except BrokenPipeError:
        # What is still buffered would be written when Python ends, and fail with a traceback.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except OSError as error:
        return _said(f"error: {sentence(error)}", FAILED)
    except failures as error:
        return _said(f"error: {error}", FAILED)
    return 0


def sentence(error: OSError) -> str:
    """What went wrong with which file, and what to do."""
    if isinstance(error, NotADirectoryError) and error.filename:
        # The system names the whole path; what is in the way is one of the folders above.
        above = (parent for parent in Path(os.fsdecode(error.filename)).parents if parent.exists() and not parent.is_dir())
        error = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(next(above, error.filename)))
    reason = error.strerror or str(error) or type(error).__name__
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    advice = _ADVICE.get(error.errno or 0)
    return "".join(
        [f"{' and '.join(names)}: " if names else "", reason[:1].lower() + reason[1:], f"; {advice}" if advice else ""]
    )


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM as an exception, unless somebody has a use for it already. Only a main thread may say what signals do."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not ours:
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _said(line: str, status: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed, or on the full disk
        print(line, file=sys.stderr, flush=True)
    return status


def _shown(file: Path) -> str:
    """As the user would write it: relative to the working directory where it is below that."""
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) and file != here else str(file)
