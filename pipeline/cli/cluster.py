"""Commands for work on clusters: submit and estimate; `commands.py` adds them to `maskmill`."""

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli import cli_output
from pipeline.cli.arguments import Overrides
from pipeline.cli.cli_output import Csv, Json
from pipeline.interrupts import keeping

if TYPE_CHECKING:
    from pipeline.segment.estimate import Estimate
    from pipeline.segment.sizing import Prices

Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS", help="Address of the cluster's dashboard, e.g. http://127.0.0.1:8265"
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Accept a cluster that does not ask for a token.")]


def help_alone(context: typer.Context) -> None:
    """Print the help if no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def submit(
    kind: Annotated[Literal["segment", "train"], typer.Argument(help="What to run.")],
    config: Annotated[str, typer.Argument(help="YAML file; its corpus and output are URIs that the cluster reaches.")],
    address: Address,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the job's output, and end with the job's exit code.")
    ] = False,
    insecure: Insecure = False,
    runtime_env: Annotated[
        str | None,
        typer.Option(
            help="YAML file of Ray's runtime_env (pip, uv, conda, env_vars), for a cluster without the packages."
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Run a config on a Ray cluster.

    Submitting it again follows the job while it runs, and resumes it once it has ended.
    """
    from pipeline.cluster import jobs
    from pipeline.cluster import submit as submitting

    ready = submitting.prepare(kind, config, overrides, runtime_env)
    client = jobs.connect(address, insecure)
    sent = submitting.submit(client, ready)
    if sent.started:
        print(f"job {sent.id}: submitted; the same by hand:")
        print(f"  {submitting.plain_line(ready, address, sent.id)}")
    else:
        print(f"job {sent.id} is already running and writes {ready.config['output']}; nothing was started")
    if not follow and sent.started:
        print(f"follow it: ray job logs {sent.id} --follow --address {address}")
        return
    with _going_on(sent.id, address):
        code = jobs.follow(client, sent.id, _write)
    _end(code)


def estimate(
    config: Annotated[str, typer.Argument(help="YAML file of a segmentation run.")],
    like: Annotated[str | None, typer.Option(help="Take seconds and sizes per image from this finished run.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Images/s of one device. Without --rate and --like, it is measured here on a few images."),
    ] = None,
    mask_kb: Annotated[float, typer.Option(help="With --rate: kB of one row of masks.")] = 30.0,
    images: Annotated[int | None, typer.Option(help="Number of images, instead of listing the corpus.")] = None,
    image_kb: Annotated[float | None, typer.Option(help="With --images: kB that are read per image.")] = None,
    devices: Annotated[int | None, typer.Option(help="Number of devices, instead of the config's actors.")] = None,
    device_hour: Annotated[float, typer.Option(help="Price of one device for an hour.")] = 0.0,
    million_gets: Annotated[float, typer.Option(help="Price of a million reads.")] = 0.4,
    thousand_puts: Annotated[float, typer.Option(help="Price of a thousand writes or listings.")] = 0.005,
    gb_month: Annotated[float, typer.Option(help="Price of keeping a GB for a month.")] = 0.023,
    overrides: Overrides = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Estimate the hours, memory, requests and cost of a segmentation run.

    Nothing is written; run it before renting machines.
    """
    from pipeline.cli.console import chosen_form
    from pipeline.config import SegmentConfig, load
    from pipeline.segment.estimate import estimate as run
    from pipeline.segment.sizing import Prices

    form, cfg = chosen_form(as_json, as_csv), load(SegmentConfig, config, overrides)
    found = run(
        cfg,
        like=like,
        rate=rate,
        mask_bytes=mask_kb * 1e3,
        images=images,
        image_bytes=None if image_kb is None else image_kb * 1e3,
        devices=devices,
    )
    prices = Prices(device_hour, million_gets, thousand_puts, gb_month)
    tell_estimate(form, found, prices, devices or cfg.actors)


def tell_estimate(form: cli_output.Form | None, found: "Estimate", prices: "Prices", actors: int) -> None:
    """Print an estimate for a person or a program."""
    from pipeline.cli import answers
    from pipeline.cli.console import console, print_estimate

    if form is None:
        print_estimate(console, found, prices, actors)
        return
    document = answers.estimate(found, prices, actors)
    cli_output.write(form, document, lambda: [cli_output.flat(document)])


def _going_on(name: str, address: str) -> AbstractContextManager[None]:
    follow, stop = (f"ray job {command} --address {address}" for command in (f"logs {name} --follow", f"stop {name}"))
    return keeping(f"the job itself goes on; follow it with {follow}, end it with {stop}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _end(code: int) -> None:
    if code:
        raise typer.Exit(code)
