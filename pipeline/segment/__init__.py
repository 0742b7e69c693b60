"""One shard of images in, its mask rows and rejects out: the whole work of one actor, without Ray."""

from pipeline.segment.apart import WORKER_ERROR, answer_apart
from pipeline.segment.core_turns import Turns
from pipeline.segment.loading import Load, Loaded, Loader, Streamed
from pipeline.segment.packed import pack, unpack
from pipeline.segment.shard import READERS, ShardSegmenter

__all__ = [
    "READERS", "WORKER_ERROR", "Load", "Loaded", "Loader", "ShardSegmenter", "Streamed", "Turns", "answer_apart", "pack",
    "unpack",
]  # fmt: skip
