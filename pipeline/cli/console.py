"""What people watch while a job runs: one live line in a terminal, a plain line a minute without one."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderableType, RenderHook
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.segment import Segment
from rich.text import Text

from pipeline.cli.printing import clean

if TYPE_CHECKING:  # a line of numbers needs neither torch nor Ray, which take seconds to import
    from pipeline.segment.driver import Progress as SegmentProgress
    from pipeline.segment.driver import Segmented
    from pipeline.segment.estimate import Estimate, Prices
    from pipeline.train.metrics_log import Record

PLAIN_EVERY_S = 60.0  # between two lines where there is no terminal

_PLAIN_WIDTH = 120  # of tables in logs and pipes


class _Cleaned:
    """A renderable without what a terminal would obey, but for rich's own codes."""

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


@contextmanager
def training(title: str) -> Iterator[Callable[["Record"], None]]:
    """Shows the records of a training run: steps, images/s, ETA, share of the time that waits for data, loss, mIoU."""
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
    """Shows a segmentation run: images, images/s, ETA, rejects by reason, the stages' shares."""
    with _line(title, unit="images") as show:

        def on_progress(progress: "SegmentProgress") -> None:
            words = [f"{progress.images_per_s:.1f} images/s", _eta(progress.eta_s), _rejects(progress.rejects)]
            show(progress.done, progress.images, " · ".join([*words, *filter(None, [shares(progress.seconds)])]))

        yield on_progress


@contextmanager
def tuning() -> Iterator[Callable[[int, int], None]]:
    """Shows the trials of a search: done of all."""
    with _line("tuning", unit="trials") as show:
        yield lambda done, total: show(done, total, "")


@contextmanager
def counting(title: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Shows plain counting: done of total."""
    with _line(title, unit=unit) as show:
        yield lambda done, total: show(done, total, "")


@contextmanager
def _line(title: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """show(done, total, words): a bar in a terminal; a printed line every few seconds elsewhere."""
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn(title), BarColumn(24), MofNCompleteColumn(), TextColumn(unit))
        progress, line = Progress(*columns, console=console), Text("  starting workers")
        task = progress.add_task(title, total=None)
        with Live(Group(progress, line), console=console):  # the words below the bar: they may be longer than the rest

            def show(done: int, total: int, words: str) -> None:
                progress.update(task, completed=done, total=total)
                line.plain = f"  {words}"

            yield show
        return

    latest, told, over = "starting", "", threading.Event()

    def tell() -> None:
        nonlocal told
        told = latest
        console.print(f"{title}: {latest}")

    def tell_now_and_then() -> None:  # also where nothing happened: a silent job and a dead one look alike
        while not over.wait(PLAIN_EVERY_S):
            tell()

    def keep(done: int, total: int, words: str) -> None:
        nonlocal latest
        first = latest == "starting"
        latest = f"{done}/{total} {unit}{' · ' + words if words else ''}"
        if first:
            tell()

    tell()
    teller = threading.Thread(target=tell_now_and_then, daemon=True)
    teller.start()
    try:
        yield keep
    finally:
        over.set()
        teller.join()
        if told != latest:
            tell()


def _eta(seconds: float | None) -> str:
    return "ETA –" if seconds is None else f"ETA {_clock(seconds)}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _rejects(rejects: Counter[str]) -> str:
    if not rejects:
        return "no rejects"
    return f"{rejects.total()} rejects ({', '.join(f'{n} {reason}' for reason, n in rejects.most_common())})"


def shares(seconds: dict[str, float]) -> str:
    """`decode 5 %, forward 62 %, ...`: each stage's share of all stages' seconds; empty before the first of them."""
    whole = sum(seconds.values())
    parts = {name.removeprefix("seconds_"): 100 * value / whole for name, value in seconds.items() if value}
    return ", ".join(f"{name} {share:.0f} %" for name, share in parts.items())


def print_segmented(console: Console, done: "Segmented", progress: "SegmentProgress | None") -> None:
    """The card at a run's end: what is there, how fast it came, and where to look next.

    Args:
        progress: of this start; None where everything had been answered before.
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
    rows["next"] = f"maskmill evaluate {done.run} --report" if done.rows else f"maskmill status {done.run}"
    if not done.rows:
        rows[""] = f"{done.run}/rejects"
    elif rejects:
        rows[""] = f"maskmill retry-rejects {done.run}, once the images are mended"
    width = max(len(name) for name in rows)
    for name, words in rows.items():
        console.print(f"  {name:<{width}}  {words}", soft_wrap=True)


def print_estimate(console: Console, found: "Estimate", prices: "Prices", actors: int) -> None:
    """What `maskmill estimate` and `maskmill segment --dry-run` found."""
    from pipeline.segment.estimate import bytes_words, time_words

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
