"""The stored plan of a run: parts of bounded size, read a few thousand rows at a time.

<run>/plan/part-00000-<hash>.parquet, in the order of shards; no shard lies in two row groups. The hash is of the file's bytes,
so that a second writer cannot change a plan that the first one made. run.json lists the valid parts.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus import GROUP_FIELDS, group_fields
from pipeline.errors import UserError
from pipeline.runs.info import PlanInfo, PlanPart, plan_name
from pipeline.runs.parts import PartWriter
from pipeline.runs.schema import PixelConfidence, mask_schema

PART_ROWS = 1 << 18  # about 5 MB, which an actor holds in memory
_LEFTOVER = re.compile(r"plan/part-\d{5}-([0-9a-f]{8})\.parquet")


@dataclass
class Proof:
    """Counts of a plan's files, and a message for each contradiction with run.json."""

    images: int = 0
    shards: int = 0
    problems: list[str] = field(default_factory=list)


class Plan:
    """The images that a run must answer; reads only the parts that a call needs, and checks their hashes against run.json."""

    def __init__(self, run_uri: str, info: PlanInfo) -> None:
        self._run_uri, self._info = run_uri, info
        self.parts, self.num_images, self.num_shards = info.parts, info.images, info.shards
        self._open = lru_cache(maxsize=1)(self._read)

    @cached_property
    def group_fields(self) -> tuple[pa.Field, ...]:
        """Columns of the plan's groups."""
        return group_fields(self._open(self.parts[0]).schema_arrow) if self.parts else GROUP_FIELDS

    def with_added_groups(self, shard: int, masks: pa.Table) -> pa.Table:
        """Return the mask rows of a shard with the group columns that its layout adds to those of every run."""
        added = group_fields(self._open(self._part(shard)).schema_arrow)[len(GROUP_FIELDS) :]
        if not added:
            return masks
        rows = {row["image_id"]: row for row in self.shard(shard).to_pylist()}
        place = masks.schema.get_field_index(GROUP_FIELDS[-1].name) + 1
        for number, group in enumerate(added):
            values = [rows[image_id][group.name] for image_id in masks["image_id"].to_pylist()]
            masks = masks.add_column(place + number, group, pa.array(values, group.type))
        return masks

    def _part(self, shard: int) -> PlanPart:
        return max((part for part in self.parts if part.first_shard <= shard), key=lambda part: part.first_shard)

    def shard(self, shard: int) -> pa.Table:
        """Return the rows of one shard."""
        part = self._part(shard)
        file = self._open(part)
        column = file.schema_arrow.get_field_index("shard")
        for group in range(file.metadata.num_row_groups):
            shards = file.metadata.row_group(group).column(column).statistics
            if shards.min <= shard <= shards.max:
                table = file.read_row_group(group)
                return table.filter(pc.equal(table["shard"], shard))
        raise UserError(
            f"run {self._run_uri}: shard {shard} is not in {part.name}, though run.json says so; restore run.json"
        )

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield all rows, in order, in tables of whole shards and some thousand rows."""
        for part in self.parts:
            file = self._open(part)
            for group in range(file.metadata.num_row_groups):
                yield file.read_row_group(group, columns=columns)

    def has_labels(self) -> bool:
        """Return whether any image has a label, from the statistics of the parts up to the first with a label."""
        for part in self.parts:
            file = self._open(part)
            column = file.schema_arrow.get_field_index("label_uri")
            for group in range(file.metadata.num_row_groups):
                found = file.metadata.row_group(group)
                if found.column(column).statistics.null_count < found.num_rows:
                    return True
        return False

    def sizes(self) -> np.ndarray:
        """Return (num_shards,) int64: the number of images in each shard."""
        sizes = np.zeros(self.num_shards, np.int64)
        for table in self.tables(["shard"]):
            shards, counts = np.unique(table["shard"].to_numpy(), return_counts=True)
            if shards.size and shards[-1] >= self.num_shards:
                break
            sizes[shards] += counts
        if sizes.sum() != self.num_images or not sizes.all():
            raise UserError(
                f"run {self._run_uri}: run.json says {self.num_images} images in {self.num_shards} shards, the plan holds "
                "others; restore run.json"
            )
        return sizes

    def prove(self) -> Proof:
        """Read the whole plan; count its images and shards, and compare it with run.json.

        Raises:
            UserError: a part is gone, or is not the one that the run was made with.
        """
        proof, digest = Proof(), hashlib.sha256()
        for part in self.parts:
            digest.update(data := self._bytes(part))
            first, images = proof.shards, proof.images
            file = pq.ParquetFile(pa.BufferReader(data))
            for group in range(file.metadata.num_row_groups):
                shards = file.read_row_group(group, columns=["shard"])["shard"].to_numpy()
                steps = np.diff(shards, prepend=proof.shards - 1)
                if steps[0] != 1 or ((steps != 0) & (steps != 1)).any():
                    proof.problems.append(f"{part.name}: its shards do not follow each other; restore run.json")
                proof.shards, proof.images = int(shards[-1]) + 1, proof.images + len(shards)
            if (part.first_shard, part.rows) != (first, proof.images - images):
                proof.problems.append(
                    f"run.json: plan says that {part.name} begins with shard {part.first_shard} and has {part.rows} images, "
                    f"it begins with shard {first} and has {proof.images - images}"
                )
        for key, recorded, counted in (
            ("images", self._info.images, proof.images),
            ("shards", self._info.shards, proof.shards),
            ("sha256", self._info.sha256[:12], digest.hexdigest()[:12]),
        ):
            if recorded != counted:
                proof.problems.append(f"run.json: plan.{key} is {recorded}, the plan's is {counted}")
        return proof

    def rows_of(self, ids: list[str]) -> pa.Table:
        """Return the rows of some images."""
        wanted = pa.array(ids, pa.string())
        tables = [table.filter(pc.is_in(table["image_id"], wanted)) for table in self.tables()]
        return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()

    def _read(self, part: PlanPart) -> pq.ParquetFile:
        return pq.ParquetFile(pa.BufferReader(self._bytes(part)))

    def _bytes(self, part: PlanPart) -> bytes:
        try:
            data = storage.read(storage.join(self._run_uri, part.name))
        except FileNotFoundError:
            raise UserError(f"run {self._run_uri}: {part.name} is gone; restore the file") from None
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise UserError(
                f"run {self._run_uri}: {part.name} is not the plan this run was made with; restore the file"
            )
        return data


def write_plan(run_uri: str, tables: Iterable[pa.Table]) -> PlanInfo:
    """Store a plan and return its entry for run.json. Memory holds one part."""
    digest, parts, images, shards = hashlib.sha256(), list[PlanPart](), 0, 0
    for first, last, rows, data in _files(tables):
        digest.update(data)
        sha256 = hashlib.sha256(data).hexdigest()
        name = plan_name(len(parts), sha256)
        storage.put(storage.join(run_uri, name), data)
        parts.append(PlanPart(name=name, first_shard=first, rows=rows, sha256=sha256))
        images, shards = images + rows, last + 1
    return PlanInfo(images=images, shards=shards, sha256=digest.hexdigest(), parts=tuple(parts))


def _files(tables: Iterable[pa.Table]) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield first and last shard, rows and bytes of each part, which ends with the table that brings it to `PART_ROWS`."""
    writer, first, last, rows = None, 0, 0, 0
    for table in tables:
        if writer is None:
            # Raises if a group has the name of another column.
            mask_schema(1, groups=group_fields(table.schema), georeferenced=True, confidence=PixelConfidence(True, 1))
            writer, first, rows = PartWriter(table.schema), table["shard"][0].as_py(), 0
        writer.add(table)
        last, rows = table["shard"][-1].as_py(), rows + table.num_rows
        if rows >= PART_ROWS:
            yield first, last, rows, writer.finish()
            writer = None
    if writer is not None:
        yield first, last, rows, writer.finish()


def leftover(name: str, uri: str) -> bool:
    """Return whether a file is a complete part of a plan, left by a start that was killed before it wrote run.json."""
    match = _LEFTOVER.fullmatch(name)
    return match is not None and hashlib.sha256(storage.read(uri)).hexdigest().startswith(match[1])
