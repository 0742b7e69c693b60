"""How long, how large, how dear a segmentation run will be, from rates that were measured and numbers that can be counted.

Units: bytes, seconds unless a name says hours; prices in whatever currency they are given in. infra/README.md has the formula
and says which numbers below were measured, and which are assumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import SegmentConfig, differences, pace_keys, parse
from pipeline.corpus import scan_items
from pipeline.corpus.readers.tar import is_tar
from pipeline.corpus.readers.zip import is_zip
from pipeline.errors import UserError
from pipeline.runs import SECONDS, describe, read_success
from pipeline.runs.lease import RENEW_S
from pipeline.runs.parts import THREADS
from pipeline.runs.plan import PART_ROWS

OVERLAP = 0.9  # of a GPU's pace: its first and its last image of a shard are decoded and encoded beside nothing
STARTUP_S = 60.0  # Ray, actors, weights
PLAN_S, PLAN_FILE_BYTES, PLAN_DISK_BYTES = 31e-6, 15, 600  # of an image: CPU, Parquet of plan/, SQLite below TMPDIR
REQUEST_S, LIST_S = 0.02, 0.1  # one small request to a store; one page of a listing
COMMIT_S = 3 * REQUEST_S  # a shard's begin, part and end: one after the other, and the device waits
TASK_S, SHARD_S = 9e-3, 0.6e-3  # of Ray's driver (configs/LOG.md, Ray's tasks)
# Tasks of Ray: beyond the larger of so many and so many an actor, a task holds several shards.
TASKS, TASKS_AN_ACTOR = 2000, 100
S3_READS_S = 5500  # that S3 promises of one prefix
SAMPLE_PARTS = 64  # of a finished run, whose seconds are read
SLOW_S = 1800.0  # without a sign of life: the alert of infra/watch
MUCH_COMMITTING = 0.2  # of a device's time
MANY_PARTS, MUCH_DISK_BYTES = 200_000, 10e9


@dataclass(frozen=True)
class Rates:
    """Of one device, and of one image."""

    images_per_s: float
    image_bytes: float  # read: image, and label where there is one
    mask_bytes: float  # written: a row of a part


@dataclass(frozen=True)
class Sizing:
    """A run before it is started."""

    images: int
    devices: int
    read_bytes: float
    written_bytes: float
    shards: int
    hours: float  # of the whole run: plan, start, images, finish
    device_hours: float
    plan_hours: float
    finish_hours: float
    parts_per_s: float  # commits of all devices together
    gets: int
    puts: int
    lists: int
    plan_file_bytes: float
    warnings: tuple[str, ...]

    def cost(self, device_hour: float, million_gets: float, thousand_puts: float, gb_month: float) -> float:
        """Devices + requests + one month of the masks: the formula of infra/README.md."""
        requests = self.gets / 1e6 * million_gets + (self.puts + self.lists) / 1e3 * thousand_puts
        return self.device_hours * device_hour + requests + self.written_bytes / 1e9 * gb_month


def corpus(cfg: SegmentConfig) -> tuple[int, float, int]:
    """Images of a corpus, mean bytes to read for one with its label, and how many objects its listing returns."""
    images, total, objects = 0, 0, 0
    for item in scan_items(cfg.corpus, cfg.split):
        images += 1
        for place in (item.image, item.label):
            if place is not None:
                total, objects = total + place.bytes, objects + (place.member is None)
    return images, total / images, 0 if cfg.corpus.layout in ("manifest", "parquet") else objects


def listed(cfg: SegmentConfig, images: int) -> int:
    """How many objects a listing returns if there are so many images: an archive and a table are one object."""
    if cfg.corpus.layout in ("manifest", "parquet"):
        return 0
    uris = [uri for uri in (cfg.corpus.images, cfg.corpus.labels) if uri is not None]
    return images * sum(not is_zip(uri) and not is_tar(uri) for uri in uris)


def measured(run: str) -> Rates:
    """The rates of a finished run, from the seconds of some of its parts and the sizes of all.

    Raises:
        UserError: the run is not finished, all of it was rejected, or a part is gone.
    """
    if (success := read_success(run)) is None:
        raise UserError(f"run {run} is not finished (no _SUCCESS.json); rates come from a finished run")
    parts = {name: part for name, part in success.parts.items() if name.startswith("masks/") and part.rows}
    if not parts:
        raise UserError(f"run {run} has no mask; rates come from a run that answered images")
    names = list(parts)[:: ceil(len(parts) / SAMPLE_PARTS)]
    cfg, seconds = describe(run).config, dict.fromkeys(SECONDS, 0.0)
    for name in names:
        for column, total in _seconds(run, name).items():
            seconds[column] += total
    images = sum(parts[name].rows for name in names)
    mask_bytes = sum(part.bytes for part in parts.values()) / sum(part.rows for part in parts.values())
    return Rates(images / working_s(seconds, parse(SegmentConfig, cfg, where=f"run {run}")), 0.0, mask_bytes)


def working_s(seconds: dict[str, float], cfg: SegmentConfig) -> float:
    """How long an actor takes, from the seconds of its stages (columns `seconds_*`).

    On a CPU the stages take turns on the actor's cores, network and CRF on all of them at once: their seconds add up. A GPU's
    network runs beside the cores, which decode and encode; its CRF holds both. Seconds of decoding hold the wait for the store,
    so that a slow store makes the answer too long, never too short.
    """
    cores = seconds["seconds_encode"]
    if cfg.decode == "actor":  # else other nodes decode, and are taken to keep up
        cores += seconds["seconds_decode"]
    cores, forward = cores / cfg.cpus_per_actor, seconds["seconds_forward"]
    if not cfg.gpus_per_actor:
        return seconds["seconds_crf"] + forward + cores
    return (seconds["seconds_crf"] + max(forward, cores)) / OVERLAP


def unlike(run: str, cfg: SegmentConfig) -> list[str]:
    """Warnings: what was other in a run whose rate is used, among that which decides its pace."""
    before, now = describe(run).config, cfg.model_dump(mode="json", include=pace_keys(SegmentConfig))
    changed = differences({key: before.get(key) for key in now}, now)
    return [f"the rate is that of another setting than {run}'s: {'; '.join(changed)}"] if changed else []


def size(cfg: SegmentConfig, images: int, listed: int, rates: Rates, devices: int) -> Sizing:
    """Everything that follows from a config, a number of images and rates.

    Args:
        listed: objects that a listing of the corpus returns; 0 for an archive, whose directory is one object.
    Raises:
        UserError: a number that must be positive is not.
    """
    for name, value in (("images", images), ("images/s of a device", rates.images_per_s), ("devices", devices)):
        if value <= 0:
            raise UserError(f"plan: {name} is {value:g}; it must be above 0")
    a_shard = cfg.images_per_shard
    if rates.image_bytes:
        a_shard = max(1, min(a_shard, int(cfg.bytes_per_shard / rates.image_bytes)))
    a_shard = min(a_shard, images)
    shards = ceil(images / a_shard)
    shard_s = a_shard / rates.images_per_s
    driver_s = min(shards, max(TASKS, TASKS_AN_ACTOR * devices)) * TASK_S + shards * SHARD_S  # beside the devices
    work_s = max(ceil(shards / devices) * (shard_s + COMMIT_S), driver_s)
    corpus_pages, shard_pages = ceil(listed / storage.LIST_PAGE), ceil(shards / storage.LIST_PAGE)
    plan_parts = ceil(images / PART_ROWS)
    plan_s = images * PLAN_S + corpus_pages * LIST_S
    finish_s = shards * REQUEST_S / THREADS + 2 * shard_pages * LIST_S
    hours = (plan_s + STARTUP_S + work_s + finish_s) / 3600
    renewals = ceil(hours * 3600 / RENEW_S)
    files = 1 + (cfg.corpus.labels is not None) + cfg.metrics.instances
    found = Sizing(
        images=images,
        devices=devices,
        read_bytes=images * rates.image_bytes,
        written_bytes=images * rates.mask_bytes,
        shards=shards,
        hours=hours,
        device_hours=(STARTUP_S + work_s) / 3600 * devices,
        plan_hours=plan_s / 3600,
        finish_hours=finish_s / 3600,
        parts_per_s=shards / work_s,
        gets=images * files + shards + (devices + 2) * plan_parts,  # the driver counts the shards twice
        puts=2 * shards + plan_parts + renewals,
        lists=corpus_pages + 2 * shard_pages + renewals,
        plan_file_bytes=images * PLAN_FILE_BYTES,
        warnings=(),
    )
    return replace(found, warnings=tuple(_warnings(cfg, found, rates, shard_s, corpus_pages * LIST_S)))


def lines(sizing: Sizing, images_per_s: float, cost: float) -> list[str]:
    """A sizing as a person reads it."""
    return [
        f"{sizing.images:,} images on {sizing.devices} devices at {images_per_s:.2f} images/s each: "
        f"{_time(sizing.hours)} ({sizing.device_hours:.1f} device-hours)",
        f"plan: {_time(sizing.plan_hours)} to list the corpus, {_bytes(sizing.plan_file_bytes)} stored",
        f"reads {_bytes(sizing.read_bytes)}, writes {_bytes(sizing.written_bytes)} in {sizing.shards:,} parts "
        f"({sizing.parts_per_s:.2f} a second); finish: {_time(sizing.finish_hours)}",
        f"store requests: {sizing.gets:,} reads, {sizing.puts:,} writes, {sizing.lists:,} listings",
        f"cost: {cost:.2f} (device-hours x price + requests + a month of masks)",
        *(f"warning: {warning}" for warning in sizing.warnings),
    ]


def _seconds(run: str, name: str) -> dict[str, float]:
    """Seconds of each stage of one part; its other columns are not read."""
    filesystem, path = storage.arrow_filesystem(storage.join(run, name))
    try:
        with filesystem.open_input_file(path) as file:
            table = pq.ParquetFile(file, pre_buffer=True).read(list(SECONDS), use_threads=False)
    except FileNotFoundError:
        raise UserError(f"run {run}: {name} is gone; rates come from a whole run") from None
    return {column: sum(value or 0.0 for value in table[column].to_pylist()) for column in SECONDS}


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _time(hours: float) -> str:
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{hours:.1f} h"


def _warnings(cfg: SegmentConfig, found: Sizing, rates: Rates, shard_s: float, listing_s: float) -> Iterator[str]:
    """What will not go well, and what to do about it.

    Args:
        shard_s: of one shard on its device, without its commit.
        listing_s: of the corpus.
    """
    shards, devices, images_per_s = found.shards, found.devices, found.images * found.parts_per_s / found.shards
    commit_share = COMMIT_S / (shard_s + COMMIT_S)
    if shards < 4 * devices:
        yield (
            f"{shards} shards for {devices} devices: the last ones wait for the slowest; set images_per_shard to "
            f"{max(1, found.images // (8 * devices))}"
        )
    elif shard_s > SLOW_S:
        yield (
            f"a shard takes {_time(shard_s / 3600)}: as much is lost with an actor that dies, and a run of few devices is "
            f"reported as stuck; set images_per_shard to {max(1, int(SLOW_S / 6 * rates.images_per_s))}"
        )
    small = dict[str, int]()  # what small shards lead to -> so many images would do
    if commit_share > MUCH_COMMITTING and shards >= 4 * devices:
        reason = f"a device waits {commit_share:.0%} of its time for the store to take its shards"
        small[reason] = ceil(10 * COMMIT_S * rates.images_per_s)
    if shards > MANY_PARTS:
        reason = f"{shards:,} parts, each of which is opened at the end of the run and by every question to it"
        small[reason] = ceil(found.images / MANY_PARTS)
    yield from (f"{reason}; {_larger(cfg, max(small.values()), rates)}" for reason in small)
    if images_per_s > S3_READS_S and cfg.corpus.images.startswith("s3"):
        yield (
            f"{images_per_s:,.0f} images/s, and S3 promises {S3_READS_S:,} reads/s of one archive or prefix; the rest is asked "
            f"again, and may end as rejects: take {max(1, int(devices * S3_READS_S / images_per_s))} devices, or spread the "
            "corpus over several folders or tars"
        )
    if listing_s > SLOW_S:
        yield (
            f"the corpus is listed page by page in {_time(listing_s / 3600)}, before any device has work; keep it as zip, tar, "
            "Parquet or a manifest, or cut it into several runs by prefix: counts add up across runs"
        )
    if (disk := found.images * PLAN_DISK_BYTES) > MUCH_DISK_BYTES:
        yield f"planning takes {_bytes(disk)} below TMPDIR of the driver's node; give it a volume of that size"


def _larger(cfg: SegmentConfig, images: int, rates: Rates) -> str:
    """How to have so many images in a shard."""
    wanted = {"images_per_shard": images, "bytes_per_shard": ceil(images * rates.image_bytes)}
    return "set " + " and ".join(f"{key} to {value}" for key, value in wanted.items() if value > getattr(cfg, key))
