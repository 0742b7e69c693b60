"""The run ledger: which images a run must answer, which are answered, and by what.

<uri>/run.json                 format, fingerprint and what it is made of, config, label space, versions
<uri>/plan/plan.parquet        every image and its shard; never recomputed
<uri>/rejects/part-*.parquet   written before the masks of the same shard, only where there are rejects
<uri>/masks/part-*.parquet     one a shard, its commit mark: a shard with this part is done
<uri>/attempts/shard-*         there while a worker answers the shard; left behind only by one that died
<uri>/_SUCCESS.json            written last
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import labels, storage
from pipeline.config import canonical, differences
from pipeline.corpus import Item, items_of
from pipeline.labels import LabelSpace
from pipeline.run.rows import FORMAT, count_rows, part_metadata, read_table, write_table

PACKAGES = ("maskmill", "torch", "torchvision", "ray", "pyarrow", "numpy", "pillow")


@dataclass(frozen=True)
class Finished:
    """What `_SUCCESS.json` says."""

    rows: int
    rejects: int
    rejects_by_reason: dict[str, int]


@dataclass(frozen=True)
class Run:
    """One run folder with its plan in memory."""

    uri: str
    fingerprint: str
    label_space: LabelSpace
    plan: pa.Table

    @classmethod
    def open(cls, uri: str) -> "Run":
        """The run at a URI; ValueError if there is none or its plan is not the one it was made with."""
        description = describe(uri)
        data = storage.read(_plan_uri(uri))
        if hashlib.sha256(data).hexdigest() != description["identity"]["plan_sha256"]:
            raise ValueError(f"run {uri}: plan/plan.parquet is not the plan this run was made with; restore the file")
        return cls(uri, description["fingerprint"], labels.space(description["label_space"]["name"]), read_table(data))

    @classmethod
    def open_or_create(
        cls,
        uri: str,
        identity: dict[str, Any],
        config: dict[str, Any],
        space: LabelSpace,
        make_plan: Callable[[], pa.Table],
    ) -> "Run":
        """Resume the run at a URI, or begin it.

        Args:
            identity: everything that decides the output bytes; two runs with equal identities are interchangeable.
            config: the resolved config, kept for the reader.
            make_plan: called only for a new run.
        Raises:
            ValueError: the run there has another identity; the message names each field that differs.
        """
        if not storage.exists(storage.join(uri, "run.json")):
            plan = write_table(make_plan(), {})
            storage.put(_plan_uri(uri), plan)
            whole = {**identity, "plan_sha256": hashlib.sha256(plan).hexdigest()}
            description = {
                "format": FORMAT,
                "fingerprint": fingerprint_of(whole),
                "identity": whole,
                "config": config,
                "label_space": {"name": space.name, "classes": space.classes, "colours": space.colours},
                "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
                "created": _now(),
            }
            storage.create(storage.join(uri, "run.json"), json.dumps(description, indent=2).encode())
        found = describe(uri)["identity"]
        wanted = json.loads(canonical({**identity, "plan_sha256": found["plan_sha256"]}))
        if changed := differences(found, wanted):
            raise ValueError(
                f"run {uri} was made with other settings: {'; '.join(changed)}; "
                "choose another output, or restore the settings to resume this run"
            )
        return cls.open(uri)

    @property
    def num_images(self) -> int:
        return int(self.plan.num_rows)

    def shard_items(self, shard: int) -> list[Item]:
        """The items of one shard, in the plan's order."""
        return items_of(self.plan.filter(pc.equal(self.plan["shard"], shard)))

    def shard_sizes(self) -> Counter[int]:
        """Images of each shard."""
        return Counter(self.plan["shard"].to_pylist())

    def pending(self) -> list[int]:
        """Shards not yet answered: their masks part is missing, or fewer rows and rejects are there than images."""
        expected = self.shard_sizes()
        there = {kind: self._parts(kind) for kind in ("masks", "rejects")}
        answered = {
            shard: sum(count_rows(there[kind][shard]) for kind in there if shard in there[kind])
            for shard in there["masks"]
        }
        return [shard for shard in sorted(expected) if answered.get(shard) != expected[shard]]

    def reopen(self) -> None:
        """Withdraw `_SUCCESS.json` before anything is redone: a run is finished or it is being written."""
        storage.delete(storage.join(self.uri, "_SUCCESS.json"))

    def begin(self, shard: int) -> bool:
        """Say that work on a shard begins; False if an earlier attempt began and never ended, so that its worker died."""
        return storage.create(self._attempt_uri(shard), _now().encode())

    def commit(self, shard: int, masks: pa.Table, rejects: pa.Table) -> None:
        """Write a shard's answer; the masks part goes last, since it says that the shard is done."""
        metadata = part_metadata(self.fingerprint, self.label_space, shard)
        name = f"part-{shard:05d}.parquet"
        if rejects.num_rows:
            storage.put(storage.join(self.uri, "rejects", name), write_table(rejects, metadata))
        else:
            storage.delete(storage.join(self.uri, "rejects", name))  # of an earlier try of this shard
        storage.put(storage.join(self.uri, "masks", name), write_table(masks, metadata))
        storage.delete(self._attempt_uri(shard))

    def withdraw_rejects(self) -> dict[int, int]:
        """Make every shard with rejects pending again; returns shard -> its rejects. Its masks are made again too."""
        self.reopen()
        there = self._parts("rejects")
        for shard in there:
            storage.delete(storage.join(self.uri, "masks", f"part-{shard:05d}.parquet"))
        return {shard: count_rows(uri) for shard, uri in there.items()}

    def rejects(self) -> Counter[str]:
        """Rejects so far, by reason."""
        reasons: Counter[str] = Counter()
        for uri in self._parts("rejects").values():
            reasons.update(read_table(storage.read(uri), ["error"])["error"].to_pylist())
        return reasons

    def finished(self) -> Finished | None:
        """What `_SUCCESS.json` says; None for a run that is not finished."""
        try:
            success = json.loads(storage.read(storage.join(self.uri, "_SUCCESS.json")))
        except FileNotFoundError:
            return None
        return Finished(success["rows"], success["rejects"], success["rejects_by_reason"])

    def finish(self, max_reject_rate: float) -> Finished:
        """Write `_SUCCESS.json` with the size and sha256 of every part.

        Raises:
            ValueError: shards are pending, or more images were rejected than `max_reject_rate` allows (counts by reason).
        """
        if pending := self.pending():
            raise ValueError(f"run {self.uri}: {len(pending)} shards are not done; run the same command again")
        parts, rows, reasons = {}, 0, Counter[str]()
        for kind in ("masks", "rejects"):
            for shard, uri in sorted(self._parts(kind).items()):
                data = storage.read(uri)
                table = read_table(data, ["image_id"] if kind == "masks" else ["error"])
                parts[f"{kind}/part-{shard:05d}.parquet"] = {
                    "bytes": len(data),
                    "rows": table.num_rows,
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
                if kind == "masks":
                    rows += table.num_rows
                else:
                    reasons.update(table["error"].to_pylist())
        rejects = reasons.total()
        by_reason = dict(reasons.most_common())
        if rejects > max_reject_rate * self.num_images:
            counts = ", ".join(f"{count} {reason}" for reason, count in by_reason.items())
            raise ValueError(
                f"run {self.uri}: {rejects} of {self.num_images} images were rejected ({counts}), more than "
                f"max_reject_rate {max_reject_rate} allows; see {self.uri}/rejects, mend the images or raise the rate"
            )
        success = {
            "format": FORMAT, "fingerprint": self.fingerprint, "finished": _now(), "rows": rows, "rejects": rejects,
            "rejects_by_reason": by_reason, "parts": parts,
        }  # fmt: skip
        storage.put(storage.join(self.uri, "_SUCCESS.json"), json.dumps(success, indent=2).encode())
        return Finished(rows, rejects, by_reason)

    def _attempt_uri(self, shard: int) -> str:
        return storage.join(self.uri, "attempts", f"shard-{shard:05d}")

    def _parts(self, kind: str) -> dict[int, str]:
        """shard -> URI of the parts that are there."""
        files = storage.list_files(storage.join(self.uri, kind))
        return {
            int(file.path[len("part-") : -len(".parquet")]): file.uri
            for file in files
            if file.path.startswith("part-") and file.path.endswith(".parquet")
        }


def describe(uri: str) -> dict[str, Any]:
    """`run.json` of a run; ValueError if there is no run, or one of another format."""
    try:
        description: dict[str, Any] = json.loads(storage.read(storage.join(uri, "run.json")))
    except FileNotFoundError:
        raise ValueError(f"run {uri}: no run.json there; give the output of `maskmill segment`") from None
    if description["format"] != FORMAT:
        raise ValueError(f"run {uri}: format {description['format']}, this version reads {FORMAT}; use its own version")
    return description


def fingerprint_of(identity: dict[str, Any]) -> str:
    """sha256 of everything that decides a run's output."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def _plan_uri(uri: str) -> str:
    return storage.join(uri, "plan", "plan.parquet")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
