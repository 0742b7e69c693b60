"""Progress of a running job: one live line in a terminal, and without a terminal a plain line from time to time."""

import logging
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderableType, RenderHook
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from pipeline.cli import cli_output
from pipeline.cli.printing import clean
from pipeline.cluster.phases import PHASES
from pipeline.errors import UserError

if TYPE_CHECKING:  # a line of numbers needs neither torch nor Ray, which take seconds to import
    from pipeline.segment.driver import Segmented
    from pipeline.segment.estimate import Estimate
    from pipeline.segment.extend import Extended
    from pipeline.segment.progress import Progress as SegmentProgress
    from pipeline.segment.sizing import Prices
    from pipeline.train.metrics_log import Record

# Time between two lines without a terminal: if there is something new, and if there is not, since a silent job looks like a
# dead one.
PLAIN_EVERY_S, SILENT_S = 10.0, 60.0

_PLAIN_WIDTH = 120  # width of tables in logs and pipes


class _Cleaned:
    """A renderable whose text is escaped by `clean`; rich's own control codes are kept."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


class _CleanedAll(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Cleaned(renderable) for renderable in renderables]


# markup=False: file names, URIs and messages may hold [brackets].
console = Console(highlight=False, markup=False)
if not console.is_terminal:
    console = Console(highlight=False, markup=False, width=_PLAIN_WIDTH)
console.push_render_hook(_CleanedAll())


def chosen_form(as_json: bool, as_csv: bool) -> cli_output.Form | None:
    """Return the format for programs, or None for people.

    For programs, everything but the result goes to stderr, without progress and advice.

    Raises:
        UserError: both formats are asked for.
    """
    if not (as_json or as_csv):
        return None
    if as_json and as_csv:
        raise UserError("--json and --csv exclude each other; give one of them")
    cli_output.quiet, console.file = True, sys.stderr
    return "json" if as_json else "csv"


def loading(libraries: str) -> None:
    """Say that large libraries are about to be imported, which takes seconds, or minutes on a busy machine."""
    PHASES.info("loading %s", libraries)


def hint(words: str) -> None:
    """Print which command comes next."""
    if not cli_output.quiet:
        console.print(f"next: {words}", soft_wrap=True)


@contextmanager
def training(title: str) -> Iterator[Callable[["Record"], None]]:
    """Show the records of a training run: steps, images/s, ETA, share of the time spent waiting for data, loss, mIoU."""
    miou = ""

    with _line(title, unit="steps") as show:

        def on_record(record: "Record") -> None:
            nonlocal miou
            if record["kind"] == "validation":
                miou = f" · mIoU {100 * record['miou']:.1f} after epoch {record['epoch']}"
                return
            if record["kind"] != "step":
                return
            eta = (record["steps"] - record["step"]) / max(record["step_rate"], 1e-9)
            stage = f"stage {record['stage']} · " if "stage" in record else ""
            words = (
                f"{stage}{record['images_per_s']:.1f} images/s · {_eta(eta)} · data wait {100 * record['data_wait']:.0f} % · "
                f"loss {record['loss']:.3f}{miou}"
            )
            show(record["step"], record["steps"], words)

        yield on_record


@contextmanager
def segmenting(title: str) -> Iterator[Callable[["SegmentProgress"], None]]:
    """Show a segmentation run: images, images/s, ETA, rejects by reason, the stages' shares of the time."""
    with _line(title, unit="images") as show:

        def on_progress(progress: "SegmentProgress") -> None:
            kept = progress.done + progress.unheard
            if not (progress.answered_now or progress.unheard or progress.unfinished):
                return  # the phases say more
            words = [f"{progress.images_per_s:.1f} images/s", _eta(progress.eta_s), _rejects(progress.rejects)]
            if progress.unfinished:
                words.insert(0, f"{kept} of them kept")
            words += filter(None, [shares(progress.seconds)])
            show(kept + progress.unfinished, progress.images, " · ".join(words))

        yield on_progress


@contextmanager
def tuning() -> Iterator[Callable[[int, int], None]]:
    """Show how many trials of a search are done."""
    with _line("tuning", unit="trials") as show:
        yield lambda done, total: show(done, total, "")


@contextmanager
def counting(title: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Show a plain count: how many of the total are done."""
    with _line(title, unit=unit) as show:
        yield lambda done, total: show(done, total, "")


@contextmanager
def _line(title: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield show(done, total, words): a bar in a terminal, else a printed line every few seconds; nothing with `--quiet`."""
    if cli_output.quiet:
        yield lambda done, total, words: None
    elif console.is_terminal:
        with _bar(title, unit) as show:
            yield show
    else:
        with _plain_lines(title, unit) as show:
            yield show


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    columns = (
        SpinnerColumn(),
        TextColumn(title),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    progress, line = Progress(*columns, console=console), Text("  starting")
    task = progress.add_task(title, total=None)

    def show(done: int, total: int, words: str) -> None:
        progress.update(task, completed=done, total=total)
        line.plain = f"  {words}"

    def show_phase(words: str) -> None:
        line.plain = f"  {words}"

    # The words are below the bar, since they may be longer than it.
    with _phases(show_phase), Live(Group(progress, line), console=console):
        yield show


@contextmanager
def _plain_lines(title: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    lines = _Lines(title)

    def show(done: int, total: int, words: str) -> None:
        lines.take(f"{done}/{total} {unit}{' · ' + words if words else ''}")

    over = threading.Event()

    def tell_now_and_then() -> None:
        while not over.wait(PLAIN_EVERY_S):
            lines.tell()

    teller = threading.Thread(target=tell_now_and_then, daemon=True)
    with _phases(lines.enter):
        teller.start()
        try:
            yield show
        finally:
            over.set()
            teller.join()
            lines.tell(last=True)


class _Lines:
    """The plain lines of one job: phases are printed at once, counts from time to time."""

    def __init__(self, title: str) -> None:
        self._title, self._counting = title, False
        self._latest, self._told = "starting", ""
        self._told_at = self._entered = time.monotonic()

    def enter(self, phase: str) -> None:
        """Print that a phase begins, such as `loading weights`."""
        self._latest, self._counting, self._entered = phase, False, time.monotonic()
        self._print(phase)

    def take(self, counts: str) -> None:
        """Keep the newest counts; the first ones after a phase are printed at once."""
        first, self._counting, self._latest = not self._counting, True, counts
        if first:
            self._print(counts)

    def tell(self, last: bool = False) -> None:
        """Print what is new; if nothing is, repeat the last line every `SILENT_S`, with the time that the phase has taken."""
        now = time.monotonic()
        if self._latest != self._told:
            self._print(self._latest)
        elif self._latest and not last and now - self._told_at >= SILENT_S:
            waiting = "" if self._counting else f" ({_clock(now - self._entered)} so far)"
            self._print(self._latest, waiting)

    def _print(self, words: str, more: str = "") -> None:
        self._told, self._told_at = words, time.monotonic()
        console.print(f"{self._title}: {words}{more}", soft_wrap=True)


class _Phase(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextmanager
def _phases(show: Callable[[str], None]) -> Iterator[None]:
    """Call show(words) for each phase that the job enters."""
    log, handler = PHASES, _Phase(show)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _eta(seconds: float | None) -> str:
    return "ETA –" if seconds is None else f"ETA {_clock(seconds)}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _rejects(rejects: Counter[str]) -> str:
    if not rejects:
        return "no rejects"
    count = "1 reject" if rejects.total() == 1 else f"{rejects.total()} rejects"
    return f"{count} ({', '.join(f'{n} {reason}' for reason, n in rejects.most_common())})"


def shares(seconds: dict[str, float]) -> str:
    """Return `decode 5 %, forward 62 %, ...`: each stage's share of all stages' seconds; empty if there are none yet."""
    whole = sum(seconds.values())
    parts = {name.removeprefix("seconds_"): 100 * value / whole for name, value in seconds.items() if value}
    return ", ".join(f"{name} {share:.0f} %" for name, share in parts.items())


def print_segmented(console: Console, done: "Segmented", progress: "SegmentProgress | None", changes: str = "") -> None:
    """Print the summary at a run's end: what was written, how fast, and which commands come next.

    Args:
        progress: progress of this start; None if everything had been answered before.
        changes: what is new, replaced or gone in the archive since then, in words.
    """
    rejects = Counter(done.rejects)
    rows = {
        "run": done.run,
        "images": f"{done.rows + rejects.total()}: {done.rows} masks, {_rejects(rejects)}",
        "this start": f"{done.answered_now} images at {done.images_per_s:.2f} images/s"
        if done.answered_now
        else "nothing was left to do",
    }
    if progress is not None and (spent := shares(progress.seconds)):
        rows["stages"] = spent
    if done.engine != "torch":
        rows["engine"] = done.engine
    if changes:
        rows["archive"] = f"{changes} since"
    following = list(_next_commands(done))
    if changes:
        following.insert(0, f"maskmill extend {shlex.quote(done.run)}")
    _print_card(console, rows, following)


def print_extended(console: Console, done: "Extended") -> None:
    """Print the summary at the end of an extension: what changed, and what was answered for it."""
    counts = ", ".join(f"{count} {change}" for change, count in done.changes.items() if count)
    rows = {"run": done.run, "generation": f"{done.generation}: {counts or 'nothing has changed in the archive'}"}
    if done.answered is not None:
        one = done.answered
        rejects = Counter(one.rejects)
        rows["answered"] = f"{one.rows + rejects.total()} images: {one.rows} masks, {_rejects(rejects)}"
    rows["archive"] = f"{done.images} images"
    run = shlex.quote(done.run)
    following = [f"maskmill verify {run}"]
    if done.answered is not None and done.answered.rejects:
        following.append(f"maskmill extend {run} --retry-rejects, once the images are repaired")
    _print_card(console, rows, following)


def _print_card(console: Console, rows: dict[str, str], following: list[str]) -> None:
    """Print names and values, then the commands that can follow."""
    lines = list(rows.items())
    if not cli_output.quiet:
        lines += [("next" if not number else "", words) for number, words in enumerate(following)]
    width = max(len(name) for name, _ in lines)
    for name, words in lines:
        console.print(f"  {name:<{width}}  {words}", soft_wrap=True)


def _next_commands(done: "Segmented") -> Iterator[str]:
    """Yield commands to run next on a run that has just ended; scores need labels."""
    run = shlex.quote(done.run)
    if not done.rows:
        yield f"maskmill status {run}"
        yield f"{done.run}/rejects"
        return
    if done.labelled:
        yield f"maskmill evaluate {run} --report"
    else:
        yield f"maskmill areas {run}"
        yield f"maskmill export {run} --format png --out DIR"
    if done.rejects:
        yield f"maskmill retry-rejects {run}, once the images are repaired"


def print_estimate(console: Console, found: "Estimate", prices: "Prices", actors: int) -> None:
    """Print what `maskmill estimate` and `maskmill segment --dry-run` found."""
    from pipeline.segment.sizing import bytes_words, time_words

    if (listing := found.listing) is not None:
        splits = ", ".join(f"{name} {count}" for name, count in sorted(listing.splits.items()))
        state = (
            "a new run"
            if found.done is None
            else f"{found.done} images are answered, {found.pending_shards} shards are pending"
        )
        console.print(
            f"plan: {listing.images} images ({splits}), {listing.labelled} with a label, {listing.bytes / 1e6:.1f} MB to "
            f"read, {len(listing.shard_images)} shards",
            soft_wrap=True,
        )
        console.print(f"output: {found.output}, {state}", soft_wrap=True)
    console.print(f"engine: {found.engine}", soft_wrap=True)
    if (sample := found.sample) is not None:
        gpu = f" and {sample.gpu_bytes / 1e9:.2f} GB of GPU memory" if sample.gpu_bytes else ""
        console.print(
            f"memory: {sample.memory_bytes / 1e9:.2f} GB an actor{gpu}, for {actors} of them "
            f"{actors * sample.memory_bytes / 1e9:.1f} GB, and Ray's own"
        )
        console.print(
            f"sample: {sample.images} images answered here, {_rejects(sample.rejects)}, {shares(sample.seconds)}"
        )
    elif found.sizing is not None:
        console.print("memory: not measured; without --like and --rate a few images are answered here")
    if (sizing := found.sizing) is not None:
        for line in (
            f"time: {sizing.images:,} images on {sizing.devices} devices at {found.rates.images_per_s:.2f} images/s each: "
            f"{time_words(sizing.hours)} ({sizing.device_hours:.1f} device-hours), of it {time_words(sizing.plan_hours)} to "
            f"list the corpus and {time_words(sizing.finish_hours)} to finish",
            f"data: reads {bytes_words(sizing.read_bytes)}, writes {bytes_words(sizing.written_bytes)} in {sizing.shards:,} "
            f"parts ({sizing.parts_per_s:.2f} a second), stores a plan of {bytes_words(sizing.plan_file_bytes)}",
            f"store requests: {sizing.gets:,} reads, {sizing.puts:,} writes, {sizing.lists:,} listings",
            f"cost: {sizing.cost(prices):.2f} (device-hours x price + requests + a month of masks)",
        ):
            console.print(line, soft_wrap=True)
    for warning in found.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    console.print("nothing was written")
