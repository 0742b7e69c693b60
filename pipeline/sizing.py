"""How long, how large, how dear a segmentation run will be, from rates that were measured and numbers that can be counted.

Units: bytes, seconds unless a name says hours; prices in whatever currency they are given in.
"""

import json
from dataclasses import dataclass
from math import ceil
from typing import Any

from pipeline import storage
from pipeline.config import SegmentConfig
from pipeline.corpus import list_items
from pipeline.run import SECONDS, read_table

EFFICIENCY = 0.9  # of an actor against the bare loop of its model: 0.85-0.95 measured
READERS = 2  # threads that read and decode beside the model, pipeline/shard/segmenter.py
STARTUP_S = 60.0  # Ray, actors, weights
# Measured at a million images, infra/README.md: Arrow bytes in every actor, Parquet bytes of plan/, seconds to make it.
PLAN_MEMORY_BYTES, PLAN_FILE_BYTES, PLAN_S = 225, 10, 40e-6
REQUEST_S = 0.02  # one small request to a store, answered by the driver's single thread
DRIVER_BYTES_S = 200e6  # the driver reads every part once to write its checksum
SCAN_LIMIT_S, MEMORY_LIMIT_BYTES = 1800.0, 4e9  # over these a plan is worth cutting
LIST_PAGE = 1000  # objects a listing request


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
    scan_hours: float  # of the driver: footers on a resume, and every part once at the end
    parts_per_s: float  # commits of all devices together
    gets: int
    puts: int
    lists: int
    plan_memory_bytes: float  # in every actor
    plan_file_bytes: float
    warnings: tuple[str, ...]

    def cost(self, device_hour: float, million_gets: float, thousand_puts: float, gb_month: float) -> float:
        """Devices + requests + one month of the masks: the formula of infra/README.md."""
        requests = self.gets / 1e6 * million_gets + (self.puts + self.lists) / 1e3 * thousand_puts
        return self.device_hours * device_hour + requests + self.written_bytes / 1e9 * gb_month


def corpus(cfg: SegmentConfig) -> tuple[int, float, int]:
    """Images of a corpus, mean bytes to read for one, and how many objects a listing returns (0: an archive)."""
    items = list_items(cfg.corpus, cfg.split)
    total = sum(item.image.bytes + (item.label.bytes if item.label else 0) for item in items)
    return len(items), total / len(items), 0 if items[0].image.member else len(items)


def measured(run: str) -> Rates:
    """The rates of a finished run, from the seconds and sizes in its own parts.

    Raises:
        ValueError: the run is not finished, or all of it was rejected.
    """
    try:
        success: dict[str, Any] = json.loads(storage.read(storage.join(run, "_SUCCESS.json")))
    except FileNotFoundError:
        raise ValueError(f"run {run} is not finished (no _SUCCESS.json); rates come from a finished run") from None
    parts = {name: part for name, part in success["parts"].items() if name.startswith("masks/") and part["rows"]}
    if not parts:
        raise ValueError(f"run {run} has no mask; rates come from a run that answered images")
    seconds = dict.fromkeys(SECONDS, 0.0)
    for name in parts:
        table = read_table(storage.read(storage.join(run, name)), list(SECONDS))
        for column in SECONDS:
            seconds[column] += sum(value or 0.0 for value in table[column].to_pylist())
    rows = sum(part["rows"] for part in parts.values())
    # Reading and decoding, the model with the CRF, and encoding run beside each other: the slowest sets the pace.
    pace = max(
        seconds["seconds_decode"] / READERS,
        seconds["seconds_forward"] + seconds.get("seconds_crf", 0.0),
        seconds["seconds_encode"],
    )
    return Rates(rows / pace * EFFICIENCY, 0.0, sum(part["bytes"] for part in parts.values()) / rows)


def size(cfg: SegmentConfig, images: int, listed: int, rates: Rates, devices: int) -> Sizing:
    """Everything that follows from a config, a number of images and rates.

    Args:
        listed: objects that a listing of the corpus returns; 0 for an archive, whose directory is one object.
    Raises:
        ValueError: a number that must be positive is not.
    """
    for name, value in (("images", images), ("images/s of a device", rates.images_per_s), ("devices", devices)):
        if value <= 0:
            raise ValueError(f"plan: {name} is {value:g}; it must be above 0")
    shards = ceil(images / cfg.images_per_shard)
    written = images * rates.mask_bytes
    working_s = images / (rates.images_per_s * min(devices, shards))
    plan_s = images * PLAN_S
    footers_s = shards * REQUEST_S
    finish_s = footers_s + shards * REQUEST_S + written / DRIVER_BYTES_S
    hours = (plan_s + STARTUP_S + working_s + finish_s) / 3600
    labels = 2 if cfg.corpus.labels else 1
    return Sizing(
        images=images,
        devices=devices,
        read_bytes=images * rates.image_bytes,
        written_bytes=written,
        shards=shards,
        hours=hours,
        device_hours=(STARTUP_S + working_s) / 3600 * devices,
        plan_hours=plan_s / 3600,
        scan_hours=finish_s / 3600,
        parts_per_s=shards / working_s,
        gets=images * labels + 2 * shards + 2 * devices,
        puts=shards + ceil(hours * 240) + 4,  # parts; the lease, every 15 s; run.json, plan, success
        lists=ceil(listed / LIST_PAGE) + 4 * ceil(shards / LIST_PAGE),
        plan_memory_bytes=images * PLAN_MEMORY_BYTES,
        plan_file_bytes=images * PLAN_FILE_BYTES,
        warnings=tuple(_warnings(cfg, images, shards, devices, footers_s)),
    )


def lines(sizing: Sizing, images_per_s: float, cost: float) -> list[str]:
    """A sizing as a person reads it."""
    return [
        f"{sizing.images:,} images on {sizing.devices} devices at {images_per_s:.2f} images/s each: {sizing.hours:.2f} h "
        f"({sizing.device_hours:.1f} device-hours)",
        f"plan: {sizing.plan_hours:.2f} h to list, {_bytes(sizing.plan_file_bytes)} stored, "
        f"{_bytes(sizing.plan_memory_bytes)} in the memory of every actor",
        f"reads {_bytes(sizing.read_bytes)}, writes {_bytes(sizing.written_bytes)} in {sizing.shards:,} parts "
        f"({sizing.parts_per_s:.2f} commits/s); the driver's scan at the end: {sizing.scan_hours:.2f} h",
        f"store requests: {sizing.gets:,} reads, {sizing.puts:,} writes, {sizing.lists:,} listings",
        f"cost: {cost:.2f} (device-hours x price + requests + a month of masks)",
        *(f"warning: {warning}" for warning in sizing.warnings),
    ]


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _warnings(cfg: SegmentConfig, images: int, shards: int, devices: int, footers_s: float) -> list[str]:
    found = []
    if shards < 4 * devices:
        found.append(
            f"{shards} shards for {devices} devices: the last ones wait for the slowest; set images_per_shard to "
            f"{max(1, images // (8 * devices))}"
        )
    if footers_s > SCAN_LIMIT_S:
        found.append(
            f"{shards} parts: a resume reads {footers_s / 3600:.1f} h of footers before it starts; set images_per_shard to "
            f"{ceil(images / (SCAN_LIMIT_S / REQUEST_S))} or cut the corpus"
        )
    if images * PLAN_MEMORY_BYTES > MEMORY_LIMIT_BYTES:
        found.append(
            f"the plan takes {images * PLAN_MEMORY_BYTES / 1e9:.0f} GB in the driver and in every actor; cut the corpus into "
            f"{ceil(images * PLAN_MEMORY_BYTES / MEMORY_LIMIT_BYTES)} runs by split or prefix: counts add up across runs"
        )
    return found
