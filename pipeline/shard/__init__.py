"""One shard of images in, its mask rows and rejects out: the whole work of one actor, without Ray."""

from pipeline.shard.apart import WORKER_ERROR, answer_apart
from pipeline.shard.loading import Load, Loaded, Loader, Streamed
from pipeline.shard.packed import pack, unpack
from pipeline.shard.segmenter import READERS, ShardSegmenter
from pipeline.shard.turns import Turns

__all__ = [
    "READERS", "WORKER_ERROR", "Load", "Loaded", "Loader", "ShardSegmenter", "Streamed", "Turns", "answer_apart", "pack",
    "unpack",
]  # fmt: skip
