"""Being told to end: SIGINT and SIGTERM wait until the step that runs is done."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class ToldToEnd:
    """Within it SIGINT and SIGTERM are counted, in `numbers`; a second SIGINT raises KeyboardInterrupt at once.

    Only the main thread may say what signals do, so only there can it be entered.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __enter__(self) -> ToldToEnd:
        self._before = {number: signal.signal(number, self._keep) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop_waiting()

    def stop_waiting(self) -> None:
        """From here on signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return bool(self.numbers)

    @property
    def status(self) -> int:
        """The exit status of a process that ended because of the first signal."""
        return 128 + self.numbers[0]

    def _keep(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and number in self.numbers:
            raise KeyboardInterrupt
        self.numbers.append(number)
