"""Do to a run's ledger what the commands of `maskmill` do, without images, models and Ray: the steps of
pipeline/segment/driver.py and pipeline/cli/__init__.py, one shard after the other."""

from collections.abc import Callable, Collection

import pyarrow as pa

from pipeline.corpus import Item
from pipeline.imaging.mask_png import decode_mask
from pipeline.imaging.regions import find_regions
from pipeline.runs import Lease, Run, region_array, with_regions
from tests.test_run import open_run, tables

Answer = Callable[[list[Item]], tuple[pa.Table, pa.Table]]


class Watcher:
    """Is told how far a command is; overridden by whoever compares it with a model."""

    def holds(self, lease: Lease) -> None:
        """The run is this command's."""

    def hands_out(self, shards: list[int]) -> None:
        """These shards are given to workers."""

    def began(self, run: Run, shard: int, first: bool) -> None:
        """A worker began a shard, and was told whether it is the first that does."""

    def committed(self, run: Run, shard: int) -> None:
        """A worker's commit of a shard returned."""


NOBODY = Watcher()


def rejecting(rejected: Collection[str], seconds: float = 0.0, regions: bool = False) -> Answer:
    """Answers that reject some images; `seconds` is what was measured: no two workers measure the same.

    Args:
        regions: of a run that has a table of them.
    """

    def answer(items: list[Item]) -> tuple[pa.Table, pa.Table]:
        masks, rejects = tables(items, rejected)
        at = masks.schema.get_field_index("seconds_decode")
        measured = pa.array([seconds] * masks.num_rows, pa.float32())
        masks = masks.set_column(at, masks.schema.field(at), measured)
        if regions:
            drawn = [decode_mask(row["bytes"]) for row in masks["mask"].to_pylist()]
            masks = with_regions(masks, [region_array(find_regions(mask)) for mask in drawn])
        return masks, rejects

    return answer


def segment(uri: str, answer: Answer, twice: Collection[int] = (), watcher: Watcher = NOBODY) -> None:
    """`maskmill segment` and `resume`; the shards of `twice` are worked on twice."""
    with Lease(uri) as lease:
        watcher.holds(lease)
        run = open_run(uri)
        if pending := run.pending():
            run.reopen(lease)
            watcher.hands_out(pending)
            for shard in pending:
                for _ in range(1 + (shard in twice)):
                    work(run, shard, answer, watcher)
        (None if pending else run.finished()) or run.finish(1, lease)


def work(run: Run, shard: int, answer: Answer, watcher: Watcher = NOBODY) -> None:
    """One worker's task."""
    watcher.began(run, shard, run.begin(shard))
    run.commit(shard, *answer(run.shard_items(shard)))
    watcher.committed(run, shard)


def withdraw_rejects(uri: str, watcher: Watcher = NOBODY) -> None:
    """The first half of `maskmill retry-rejects`; the other is `segment`."""
    with Lease(uri) as lease:
        watcher.holds(lease)
        Run.open(uri).withdraw_rejects(lease)
