"""Commands on a run: segment, resume, extend, retry-rejects, status, verify, compact; `commands.py` adds them."""

import dataclasses
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import storage
from pipeline.cli import cli_output
from pipeline.cli import cluster as cli_cluster
from pipeline.cli.analysis import RunUri
from pipeline.cli.arguments import Config, Overrides, segment_config
from pipeline.cli.cli_output import Csv, Json
from pipeline.errors import UserError
from pipeline.interrupts import keeping

if TYPE_CHECKING:
    from pipeline.config import SegmentConfig
    from pipeline.segment.progress import Progress as SegmentProgress


def segment(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, memory and time; write nothing.")] = False,
    like: Annotated[str | None, typer.Option(help="With --dry-run: take the rates of this finished run.")] = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Segment a corpus with Ray Data: write masks, counts and rejects as Parquet.

    After an interruption, run the same command again: finished shards are skipped.
    """
    cfg = segment_config(config, overrides)
    if like is not None and not dry_run:
        raise UserError("segment: --like gives rates to --dry-run; leave it out, or add --dry-run")
    if (as_json or as_csv) and not dry_run:
        raise UserError(
            "segment: --json and --csv give the answer of --dry-run; for a run, use `maskmill status RUN --json`"
        )
    if not dry_run:
        raise typer.Exit(run_segmentation(cfg))
    from pipeline.cli.console import chosen_form
    from pipeline.segment.estimate import estimate
    from pipeline.segment.sizing import Prices

    form = chosen_form(as_json, as_csv)
    cli_cluster.tell_estimate(form, estimate(cfg, like=like, starting=True), Prices(), cfg.actors)


def resume(run: RunUri) -> None:
    """Resume an unfinished run, or an unfinished extension, from its folder alone.

    The config is read from the run's run.json.
    """
    from pipeline.runs import is_being_extended

    uri = storage.absolute(run)
    cfg = _config_of(uri, run)
    _refuse_begun_copy(uri, run)
    raise typer.Exit(run_extension(cfg) if is_being_extended(uri) else run_segmentation(cfg))


def extend(
    run: RunUri,
    overrides: Overrides = None,
    retry_rejects: Annotated[
        bool, typer.Option("--retry-rejects", help="Also try rejected images again, e.g. after they were repaired.")
    ] = False,
    accept_gone: Annotated[
        bool,
        typer.Option("--accept-gone", help="Continue even if more than half of the images are gone from the archive."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is new, replaced or gone; write nothing.")
    ] = False,
) -> None:
    """Bring a finished run up to date with its archive, as a new generation.

    New and replaced images are segmented; the masks of images that are gone are withdrawn.
    """
    from pipeline.cli.console import console
    from pipeline.config import SegmentConfig, overridden, parse
    from pipeline.runs import describe

    uri = storage.absolute(run)
    values = overridden(SegmentConfig, describe(uri).config, overrides)
    cfg = parse(SegmentConfig, {**values, "output": uri}, where=f"{run}/run.json")
    if not dry_run:
        raise typer.Exit(run_extension(cfg, retry_rejects, accept_gone))
    from pipeline.segment.extend import changes_of

    console.print(changes_of(cfg).words() or "nothing in the archive has changed since the run", soft_wrap=True)


def retry_rejects(run: RunUri) -> None:
    """Try the rejected images of a run again, e.g. after they were repaired.

    The shards that hold them are segmented anew.
    """
    from pipeline.cli.console import console
    from pipeline.runs import Lease, Run, check_checkpoints
    from pipeline.segment.checkpoints import addresses, load_checkpoints

    uri = storage.absolute(run)
    with Lease(uri) as lease:
        found = Run.open(uri)  # masks are withdrawn only if this model can make them again
        cfg = _config_of(uri, run)
        check_checkpoints(uri, addresses(cfg), load_checkpoints(cfg).identity)
        withdrawn = found.withdraw_rejects(lease)
    console.print(f"{sum(withdrawn.values())} rejects of {len(withdrawn)} shards are pending again")
    resume(run)


def status(run: RunUri, as_json: Json = False, as_csv: Csv = False) -> None:
    """Show the progress of a run: images answered, shards pending, rejects.

    It also shows the run's generation, and whether a process is writing it.
    """
    from pipeline.cli.console import chosen_form, console
    from pipeline.runs.status import status as ask

    form, found = chosen_form(as_json, as_csv), ask(storage.absolute(run))
    if form:
        document = dataclasses.asdict(found)
        cli_output.write(form, document, lambda: [cli_output.flat(document)])
        return
    state = f"being written by {found.writer}" if found.writer else found.state
    if found.state == "not finished" and not found.writer:
        state += f" and not running; to resume it: maskmill resume {shlex.quote(run)}"
    if found.state == "being extended" and not found.writer:
        state = f"an extension is unfinished and not running; to continue it: maskmill extend {shlex.quote(run)}"
    console.print(f"{found.answered} of {found.images} images answered, {found.pending_shards} shards pending; {state}")
    if found.generation > 1:
        console.print(f"  generation {found.generation}: {found.new} new, {found.replaced} replaced, {found.gone} gone")
    for reason, count in found.rejects.items():
        console.print(f"  rejected: {count} {reason}")


def verify(run: RunUri) -> None:
    """Verify that every image of a run is answered exactly once.

    It reads all parts of the run again.
    """
    from pipeline.cli.console import console
    from pipeline.runs import verify as prove

    found = prove(storage.absolute(run))
    for problem in found.problems:
        console.print(f"fault: {problem}", soft_wrap=True)
    if found.more_problems:
        console.print(f"and {found.more_problems} faults more")
    console.print(
        f"{found.images} images planned: {found.masks} masks, {found.rejects} rejects, {found.num_problems} faults"
    )
    if found.problems:
        raise typer.Exit(1)


def compact(
    run: RunUri,
    out: Annotated[
        str | None, typer.Option("--out", help="Where the copy is written. Default: beside the run, as RUN-compact.")
    ] = None,
) -> None:
    """Copy a finished run into few large parts, of about 256 MB.

    The copy is a run of its own; the first run is not changed.
    """
    from pipeline.cli.console import console
    from pipeline.runs import compact as write

    uri = storage.absolute(run)
    copy = storage.absolute(out) if out else f"{uri}-compact"
    with keeping(f"what was written is kept in {copy}, run the same command again to go on"):
        done = write(uri, copy)
    console.print(f"{done.rows} masks, {done.rejects} rejects: {copy}", soft_wrap=True)


def run_extension(cfg: "SegmentConfig", retry_rejects: bool = False, accept_gone: bool = False) -> int:
    """Extend a run, with progress on the console; the exit code: 0 clean, 2 done with rejects among the new answers."""
    from pipeline.cli.console import console, loading, print_extended, segmenting
    from pipeline.segment.local_workers import started_ahead

    kept = f"the images answered so far are kept in {cfg.output}, run the same command again for the rest"
    with keeping(kept), segmenting("extending") as show:
        loading("torch")
        with started_ahead(cfg) as local:
            from pipeline.segment.extend import extend as run

            done = run(cfg, retry_rejects, accept_gone, show, local)
    print_extended(console, done)
    return 2 if done.answered is not None and done.answered.rejects else 0


def run_segmentation(cfg: "SegmentConfig") -> int:
    """Segment, with progress on the console; the exit code: 0 clean, 2 done with rejects."""
    from pipeline.cli.console import console, loading, print_segmented, segmenting
    from pipeline.segment.local_workers import started_ahead

    newest: SegmentProgress | None = None
    kept = f"the images answered so far are kept in {cfg.output}, run the same command again for the rest"
    with keeping(kept), segmenting("segmenting") as show:

        def on_progress(progress: "SegmentProgress") -> None:
            nonlocal newest
            newest = progress
            show(progress)

        loading("torch")
        with started_ahead(cfg) as local:
            from pipeline.segment.driver import segment as run

            done = run(cfg, on_progress, local)
        changes = _changes_since(cfg) if done.had_finished else ""
    print_segmented(console, done, newest, changes)
    return 2 if done.rejects else 0


def _config_of(uri: str, run: str) -> "SegmentConfig":
    """Return the config that a run was written with, and where it is now; `run` is its name as given, for messages."""
    from pipeline.config import SegmentConfig, parse
    from pipeline.runs import describe

    return parse(SegmentConfig, {**describe(uri).config, "output": uri}, where=f"{run}/run.json")


def _refuse_begun_copy(uri: str, run: str) -> None:
    """Raise UserError for a copy that `compact` has not finished: its images are answered already, in the first run."""
    from pipeline.runs import Run, describe

    if (source := describe(uri).compacted_from) and Run.open(uri).pending():
        again = f"maskmill compact {shlex.quote(source.uri)} --out {shlex.quote(run)}"
        raise UserError(f"run {run}: it is a compacted copy that is not finished; to go on: {again}")


def _changes_since(cfg: "SegmentConfig") -> str:
    """Say what is new, replaced or gone in the archive of a finished run; empty if nothing, or if it cannot be listed."""
    from pipeline.segment.extend import changes_of

    recorded = _config_of(cfg.output, cfg.output)  # in which the layout is resolved
    try:
        return changes_of(recorded).words()
    except (UserError, OSError):  # the archive may be gone for good, or out of reach; the run stays valid
        return ""
