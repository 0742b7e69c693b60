"""One shard of images in, its mask rows and rejects out: the whole work of one actor, without Ray."""

from pipeline.shard.loading import Loaded, Loader, Streamed
from pipeline.shard.packed import pack, unpack
from pipeline.shard.segmenter import READERS, ShardSegmenter
from pipeline.shard.turns import Turns

__all__ = ["READERS", "Loaded", "Loader", "ShardSegmenter", "Streamed", "Turns", "pack", "unpack"]
