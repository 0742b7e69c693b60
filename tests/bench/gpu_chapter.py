"""Run the parts of a chapter of measurements: parts without enough time left are named, and a disagreement fails the whole."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence

from tests.bench.turns import show


class Chapter:
    """Parts, one after the other.

    Args:
        minutes: no part or row is begun after them.
    """

    def __init__(self, minutes: float) -> None:
        self._ends = time.monotonic() + 60 * minutes
        self.wrong: list[str] = []
        self.left_out: list[str] = []

    def hold(self, statement: str, is_so: bool) -> str:
        """A cell of a table; a statement that is not so fails the chapter at its end."""
        if not is_so:
            self.wrong.append(statement)
        return "yes" if is_so else "NO"

    def part(self, title: str, header: Sequence[str], rows: Callable[[], Iterable[Sequence[object]]]) -> None:
        if time.monotonic() > self._ends:
            self.left_out.append(f"{title}: no time was left")
            return
        try:
            show(title, header, self._in_time(title, rows()))
        except ModuleNotFoundError as error:
            self.left_out.append(f"{title}: {error}")
        except Exception as error:
            traceback.print_exc()
            self.wrong.append(f"{title}: {type(error).__name__}: {error}")

    def _in_time(self, title: str, rows: Iterable[Sequence[object]]) -> Iterator[Sequence[object]]:
        for row in rows:
            yield row
            if time.monotonic() > self._ends:
                self.left_out.append(f"{title}: all after the row {row[0]}, if any: no time was left")
                return

    def close(self) -> None:
        """Raise SystemExit where something disagreed; what was left out is named."""
        for sentence in self.left_out:
            print(f"\nLEFT OUT: {sentence}")
        for statement in self.wrong:
            print(f"\nDISAGREES: {statement}")
        if self.wrong:
            raise SystemExit(f"{len(self.wrong)} of the statements above do not hold")
        print("\nEverything that was compared agrees.")
