"""Compute time, machines, requests, warnings and cost of a run from a number of images and the rates of a device.

Units: bytes; seconds unless a name says hours; prices in any one currency. infra/docs/sizing.md has the formula and says which
of the numbers below were measured, and which are assumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from pipeline import storage
from pipeline.config import SegmentConfig
from pipeline.corpus.readers.tar import is_tar
from pipeline.corpus.readers.zip import is_zip
from pipeline.errors import UserError
from pipeline.metrics.registry import needs
from pipeline.runs.lease import RENEW_S
from pipeline.runs.parts import THREADS
from pipeline.runs.plan import PART_ROWS
from pipeline.segment.actor import num_tasks

STARTUP_S = 60.0  # start of Ray and of actors, loading of weights
PLAN_S, PLAN_FILE_BYTES, PLAN_DISK_BYTES = 31e-6, 15, 600  # per image: CPU, Parquet of plan/, SQLite below TMPDIR
REQUEST_S, LIST_S = 0.02, 0.1  # one small request to a store; one page of a listing
LISTED_S = 20e-6  # per object that S3 lists: CPU of its client, in addition to PLAN_S
COMMIT_S = 3 * REQUEST_S  # begin, part and end of a shard: one after the other, while the device waits
FINISH_S = 0.04e-3  # per part at the end of a run: CPU
TASK_S, SHARD_S = 9e-3, 0.6e-3  # CPU of Ray's driver, per task and per shard (configs/LOG.md, Ray's tasks)
S3_READS_S = 5500  # reads per second that S3 promises for one prefix
SLOW_S = 1800.0  # seconds without progress after which infra/watch raises an alert
MUCH_COMMITTING = 0.2  # share of a device's time above which commits raise a warning
MANY_PARTS, MUCH_DISK_BYTES = 200_000, 10e9
MASK_BYTES = 30e3  # assumed for a mask row if not given


@dataclass(frozen=True)
class Rates:
    """Rate of one device, and bytes per image."""

    images_per_s: float
    image_bytes: float  # read: image, and label if there is one
    mask_bytes: float  # written: one row of a part


@dataclass(frozen=True)
class Prices:
    """Prices, all in one currency."""

    device_hour: float = 0.0
    million_gets: float = 0.4
    thousand_puts: float = 0.005  # writes and listings
    gb_month: float = 0.023


@dataclass(frozen=True)
class Sizing:
    """Time, bytes, requests and warnings that follow from a number of images and rates."""

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

    def cost(self, prices: Prices) -> float:
        """Return the cost of devices, requests and one month of storing the masks, as in infra/docs/sizing.md."""
        requests = self.gets / 1e6 * prices.million_gets + (self.puts + self.lists) / 1e3 * prices.thousand_puts
        return self.device_hours * prices.device_hour + requests + self.written_bytes / 1e9 * prices.gb_month


def objects_of(cfg: SegmentConfig, images: int) -> int:
    """Return how many objects a listing of so many images returns; 0 for an archive or a table, which is one object."""
    if cfg.corpus.layout in ("manifest", "parquet") or cfg.corpus.images.endswith((".csv", ".parquet")):
        return 0
    uris = [uri for uri in (cfg.corpus.images, cfg.corpus.labels) if uri is not None]
    return images * sum(not is_zip(uri) and not is_tar(uri) for uri in uris)


def size(cfg: SegmentConfig, images: int, listed: int, rates: Rates, devices: int) -> Sizing:
    """Return everything that follows from a config, a number of images and rates.

    Args:
        listed: objects that a listing of the corpus returns; 0 for an archive, whose directory is one object.
    Raises:
        UserError: `images`, `devices` or the rate is not positive.
    """
    for name, value in (("images", images), ("images/s of a device", rates.images_per_s), ("devices", devices)):
        if value <= 0:
            raise UserError(f"estimate: {name} is {value:g}; it must be above 0")
    a_shard = cfg.images_per_shard
    if rates.image_bytes:
        a_shard = max(1, min(a_shard, int(cfg.bytes_per_shard / rates.image_bytes)))
    a_shard = min(a_shard, images)
    shards = ceil(images / a_shard)
    shard_s = a_shard / rates.images_per_s
    driver_s = num_tasks(shards, devices) * TASK_S + shards * SHARD_S  # in parallel with the devices
    work_s = max(ceil(shards / devices) * (shard_s + COMMIT_S), driver_s)
    corpus_pages, shard_pages = ceil(listed / storage.LIST_PAGE), ceil(shards / storage.LIST_PAGE)
    plan_parts = ceil(images / PART_ROWS)
    planning_s, listing_s = images * PLAN_S, _listing_s(corpus_pages, cfg.corpus.images)
    if cfg.corpus.images.startswith("s3"):  # while a page is fetched, those before it are planned
        plan_s = max(listing_s, planning_s + listed * LISTED_S)
        listing_s = max(listing_s, listed * LISTED_S)
    else:
        plan_s = planning_s + listing_s
    footers = 0 if cfg.regions is None else shards  # without regions, actors tell the driver what footers say
    finish_s = footers * REQUEST_S / THREADS + _listing_s(shard_pages, cfg.output) + shards * FINISH_S
    hours = (plan_s + STARTUP_S + work_s + finish_s) / 3600
    renewals = ceil(hours * 3600 / RENEW_S)
    files = 1 + (cfg.corpus.labels is not None) + ("instances" in needs(dict(cfg.metrics)))
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
        gets=images * files + footers + (devices + 2) * plan_parts,  # the driver counts the shards twice
        puts=2 * shards + plan_parts + renewals,
        lists=corpus_pages + shard_pages + renewals,
        plan_file_bytes=images * PLAN_FILE_BYTES,
        warnings=(),
    )
    return replace(found, warnings=tuple(_warnings(cfg, found, rates, shard_s, listing_s)))


def _listing_s(pages: int, uri: str) -> float:
    """Return the seconds that a listing waits for the store."""
    return pages * LIST_S / (storage.LISTERS if uri.startswith("s3") else 1)


def bytes_words(number: float) -> str:
    """Format bytes with three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def time_words(hours: float) -> str:
    """Format hours as seconds, minutes or hours."""
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{hours:.1f} h"


def _warnings(cfg: SegmentConfig, found: Sizing, rates: Rates, shard_s: float, listing_s: float) -> Iterator[str]:
    """Yield what will not go well, and what to do about it.

    Args:
        shard_s: seconds of one shard on its device, without its commit.
        listing_s: seconds to list the corpus.
    """
    shards, devices, images_per_s = found.shards, found.devices, found.images * found.parts_per_s / found.shards
    commit_share = COMMIT_S / (shard_s + COMMIT_S)
    if devices > 1 and shards < min(4 * devices, found.images):  # a shard of one image cannot be made smaller
        yield (
            f"{shards} shards for {devices} devices: the last ones wait for the slowest; set images_per_shard to "
            f"{max(1, found.images // (8 * devices))}"
        )
    elif shard_s > SLOW_S:
        yield (
            f"a shard takes {time_words(shard_s / 3600)}: as much is lost with an actor that dies, and a run of few devices is "
            f"reported as stuck; set images_per_shard to {max(1, int(SLOW_S / 6 * rates.images_per_s))}"
        )
    small = dict[str, int]()  # problem of small shards -> images per shard that would avoid it
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
            f"the corpus is listed in {time_words(listing_s / 3600)}, before any device has work; keep it as zip, "
            "tar, Parquet or a manifest, or cut it into several runs by prefix: counts add up across runs"
        )
    if (disk := found.images * PLAN_DISK_BYTES) > MUCH_DISK_BYTES:
        yield f"planning takes {bytes_words(disk)} below TMPDIR of the driver's node; give it a volume of that size"


def _larger(cfg: SegmentConfig, images: int, rates: Rates) -> str:
    """Return how to set the config so that a shard has this many images."""
    wanted = {"images_per_shard": images, "bytes_per_shard": ceil(images * rates.image_bytes)}
    return "set " + " and ".join(f"{key} to {value}" for key, value in wanted.items() if value > getattr(cfg, key))
