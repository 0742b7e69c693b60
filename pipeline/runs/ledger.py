"""The run ledger: which images a run must answer, which are answered, and where the answers are.

<uri>/run.json                 format, fingerprint and identity, config, label space, versions, machine, list of plan parts
<uri>/plan/part-*.parquet      every image and its shard; never recomputed
<uri>/_lease/*.json            who writes the run; the highest number is valid
<uri>/attempts/shard-*         exists while a worker answers the shard; left behind only by one that died
<uri>/attempts/decode-*        exists while a task decodes the shard; left behind only by one that failed
<uri>/attempts/retried-*       the images of a shard that were rejected and are tried again, until the run ends
<uri>/attempts/checked-*       footers of masks parts that an earlier start has read, until the run ends
<uri>/masks/part-*.parquet     one per shard, created once: the first answer of a shard counts, and is complete
<uri>/rejects/part-*.parquet   only for shards with rejects; made from the footer of the masks part, which holds them too
<uri>/regions/part-*.parquet   only if the config asks for regions; made from the masks part too
<uri>/_SUCCESS.json            written last
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.config import ImageConfig, canonical, differences
from pipeline.corpus import Item, items_of
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.runs.beginning import begin_run
from pipeline.runs.checked import CheckedParts, entry_of
from pipeline.runs.generations import forget_unpublished, refuse_grown
from pipeline.runs.info import PartEntry, RunInfo, delete_success, describe, run_exists
from pipeline.runs.lease import Lease
from pipeline.runs.parts import (
    Footer,
    Part,
    footer_of,
    part_name,
    parts_of,
    read_footer,
    read_table,
    scan_parts,
    write_part,
)
from pipeline.runs.plan import Plan
from pipeline.runs.regions import regions_part
from pipeline.runs.retried import mark_retried, retried_images
from pipeline.runs.schema import part_metadata
from pipeline.runs.success import Finished, finished, rejects_part, write_success


@dataclass(frozen=True)
class Run:
    """One run and its folder."""

    uri: str
    fingerprint: str
    label_space: LabelSpace
    plan: Plan
    image: ImageConfig | None = None  # bands and range of the images, as the checkpoint declares them
    has_regions: bool = False  # whether the run has a table of regions

    @classmethod
    def open(cls, uri: str) -> "Run":
        """Open the run at a URI; UserError if there is none."""
        return cls._of(uri, describe(uri))

    @classmethod
    def _of(cls, uri: str, info: RunInfo) -> "Run":
        return cls(
            uri, info.fingerprint, info.label_space.space, Plan(uri, info.plan), info.image, info.regions is not None
        )

    @classmethod
    def open_or_create(
        cls,
        uri: str,
        identity: dict[str, Any],
        config: dict[str, Any],
        space: LabelSpace,
        make_plan: Callable[[], Iterable[pa.Table]],
        packages: Iterable[str] = (),
    ) -> "Run":
        """Resume the run at a URI, or begin it.

        Args:
            identity: everything that decides the output bytes; two runs with equal identities are interchangeable.
            config: the resolved config, recorded for the reader.
            make_plan: called only for a new run; returns tables like `plan_shards`.
            packages: further packages whose versions are recorded.
        Raises:
            UserError: the run there has another identity (the message names each field that differs), or a group of a new
                run has the name of another column.
        """
        if not run_exists(uri):
            begin_run(uri, identity, config, space, make_plan(), packages)
        return cls.resumed(uri, identity)

    @classmethod
    def resumed(cls, uri: str, identity: dict[str, Any]) -> "Run":
        """Open the run at a URI; UserError if it has another identity: the message names each field that differs."""
        info = describe(uri)
        recorded = info.identity
        wanted = json.loads(canonical({**identity, "plan_sha256": recorded["plan_sha256"]}))
        if changed := differences(recorded, wanted):
            raise UserError(
                f"run {uri} was made with other settings: {'; '.join(changed)}; "
                "choose another output, or restore the settings to resume this run"
            )
        return cls._of(uri, info)

    @cached_property
    def checked(self) -> CheckedParts:
        """The masks parts whose footers were read."""
        return CheckedParts(self.uri, self._marks, self.fingerprint)

    @property
    def num_images(self) -> int:
        return self.plan.num_images

    def shard_items(self, shard: int) -> list[Item]:
        """Return the items of one shard, in the plan's order."""
        return items_of(self.plan.shard(shard))

    def shard_sizes(self) -> np.ndarray:
        """Return (shards,) int64: the number of images in each."""
        return self.plan.sizes()

    def pending(self) -> list[int]:
        """Return the shards without an answer; parts are written whole or not at all. Reads footers that no start has kept yet.

        Raises:
            UserError: a part belongs to another run, or cannot be read.
        """
        return self._without(self.checked.listed())

    def _without(self, parts: Iterable[Part]) -> list[int]:
        answered = np.zeros(self.plan.num_shards, bool)
        for part in parts:
            answered[part.first : part.last + 1] = True
        pending: list[int] = np.flatnonzero(~answered).tolist()
        return pending

    def reopen(self, lease: Lease | None = None) -> None:
        """Delete `_SUCCESS.json` before anything is redone: a run is either finished or being written.

        Also delete rejects and regions of pending shards, which remain if an earlier withdrawal was killed halfway.
        """
        _check(lease)
        forget_unpublished(self.uri)
        delete_success(self.uri)
        following = [part for kind in self._kinds if kind != "masks" for part in scan_parts(self.uri, kind)]
        pending = set(self._without(scan_parts(self.uri, "masks"))) if following else set()
        for part in following:
            if part.first in pending:
                _check(lease)
                storage.delete(part.uri)

    def answered(self, shard: int) -> list[str] | None:
        """Return the reasons of a shard's rejects; None while it has no answer."""
        footer = self._footer(shard)
        return None if footer is None else [row["error"] for row in footer.rejects]

    def begin(self, shard: int) -> bool:
        """Mark that work on a shard begins; return False if an earlier attempt never ended, because its worker died."""
        moment = datetime.now(UTC).isoformat()
        return storage.create(self._attempt_uri(shard), moment.encode())

    def leave(self, shard: int) -> None:
        """Remove the mark of a shard: work ended without an answer, but its worker did not die."""
        storage.delete(self._attempt_uri(shard))

    def begin_decoding(self, shard: int) -> bool:
        """Mark that a task begins to decode a shard; return False if an earlier task never ended."""
        return storage.create(self._mark_uri(f"decode-{shard:05d}"), b"decoding")

    def end_decoding(self, shard: int) -> None:
        """Remove that mark: decoding ended, or is no longer needed."""
        storage.delete(self._mark_uri(f"decode-{shard:05d}"))

    def commit(self, shard: int, masks: pa.Table, rejects: pa.Table) -> PartEntry | None:
        """Write a shard's answer, unless there is one already: the first counts, even if several workers answer the shard.

        The worker that is first also writes the regions; `finish` writes those that are missing after a kill.

        Returns:
            The part's entry, for `checked.committed`, if this answer was the first and has no rejects.
        """
        metadata = part_metadata(self.fingerprint, self.label_space, shard, shard)
        masks = self.plan.with_added_groups(shard, masks)
        uri = storage.join(self.uri, "masks", part_name(shard, shard))
        data = write_part(masks, metadata, rejects.to_pylist())
        first = storage.create(uri, data)
        if first and self.has_regions:
            part = Part(self.uri, "masks", len(data), shard, shard)
            name, content = regions_part(self.label_space, part, data)
            storage.create(storage.join(self.uri, name), content)
        if rejects.num_rows or not first:
            self._settle(shard)
        storage.delete(self._attempt_uri(shard))
        return entry_of(len(data), footer_of(data, uri)) if first and not rejects.num_rows else None

    def withdraw_rejects(self, lease: Lease | None = None) -> dict[int, int]:
        """Make every shard with rejects pending again, masks included; return shard -> its number of rejects.

        Nobody else may write the run meanwhile: a writer that was frozen for longer than its lease, between checking the
        lease and deleting a part, would delete a part that another writer has made meanwhile. (S3 can compare ETags on
        deletion; a disk cannot, and rejects of equal bytes have equal ETags.)

        Raises:
            UserError: the run is a compacted copy, whose parts hold many shards, or has several generations.
        """
        refuse_grown(self.uri, "retry-rejects", f"maskmill extend {self.uri} --retry-rejects answers them again")
        if source := describe(self.uri).compacted_from:
            raise UserError(
                f"run {self.uri}: it is a compacted copy; retry the rejects of {source.uri}, then compact that again"
            )
        _check(lease)
        forget_unpublished(self.uri)
        delete_success(self.uri)
        for mark in storage.list_files(self._marks):
            if mark.path.startswith("shard-"):  # its worker may have died before it wrote the rejects
                self._settle(int(mark.path.removeprefix("shard-")))
        num_rejects = {}
        for part in scan_parts(self.uri, "rejects"):
            ids = read_table(storage.read(part.uri), ["image_id"])["image_id"].to_pylist()
            num_rejects[part.first] = len(ids)
            mark_retried(self._marks, part.first, ids)
            for kind in self._kinds:  # rejects last: a repeated call finds the shard by them
                _check(lease)
                storage.delete(replace(part, kind=kind).uri)
        return num_rejects

    def retried(self) -> dict[int, list[str]]:
        """Return shard -> ids of rejected images to try again: their files may have been repaired since they were planned."""
        return retried_images(self._marks)

    def rejects(self) -> Counter[str]:
        """Count the rejects so far, by reason."""
        reasons: Counter[str] = Counter()
        for part in scan_parts(self.uri, "rejects"):
            reasons.update(read_table(storage.read(part.uri), ["error"])["error"].to_pylist())
        return reasons

    def finished(self) -> Finished | None:
        """Return what `_SUCCESS.json` says; None for a run that is not finished."""
        return finished(self.uri, self.fingerprint)

    def finish(self, max_reject_rate: float, lease: Lease | None = None) -> Finished:
        """Write `_SUCCESS.json` with rows, size and checksum of every part, from their footers; those that `checked` knows are
        not read again.

        Raises:
            UserError: shards are pending, incompletely answered, or answered by a part of another run; or more images were
                rejected than `max_reject_rate` allows (the message counts them by reason).
        """
        parts = parts_of(self.uri, "masks")
        if pending := self._without(parts):
            raise UserError(f"run {self.uri}: {len(pending)} shards are not done; run the same command again")
        for file in storage.list_files(self._marks):
            storage.delete(file.uri)
        sizes, moment = self.shard_sizes(), datetime.now(UTC).isoformat(timespec="seconds")
        return write_success(
            self.uri, self.fingerprint, self.label_space, sizes, max_reject_rate, moment, lambda: _check(lease), parts,
            self.has_regions, known=self.checked.entry,
        )  # fmt: skip

    def _settle(self, shard: int) -> None:
        """Write the rejects part of a shard, from the footer of its committed masks part."""
        if (footer := self._footer(shard)) is not None and footer.rejects:
            name, data = rejects_part(self.fingerprint, self.label_space, shard, shard, footer.rejects)
            storage.put(storage.join(self.uri, name), data)

    def _footer(self, shard: int) -> Footer | None:
        """Return the footer of a shard's committed masks part; None while there is none."""
        part = Part(self.uri, "masks", 0, shard, shard)
        try:
            return read_footer(replace(part, bytes=storage.size(part.uri)), self.fingerprint)
        except FileNotFoundError:
            return None

    @property
    def _kinds(self) -> tuple[str, ...]:
        """Kinds of parts, in the order in which a shard's parts are withdrawn."""
        return ("regions", "masks", "rejects") if self.has_regions else ("masks", "rejects")

    def _attempt_uri(self, shard: int) -> str:
        return self._mark_uri(f"shard-{shard:05d}")

    def _mark_uri(self, name: str) -> str:
        return storage.join(self._marks, name)

    @property
    def _marks(self) -> str:
        return storage.join(self.uri, "attempts")


def _check(lease: Lease | None) -> None:
    if lease is not None:
        lease.check()
