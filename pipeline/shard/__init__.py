"""One shard of images in, its mask rows and rejects out: the whole work of one actor, without Ray."""

from pipeline.shard.loading import Loaded, Loader, Rejected, Streamed
from pipeline.shard.segmenter import READERS, ShardSegmenter

__all__ = ["READERS", "Loaded", "Loader", "Rejected", "ShardSegmenter", "Streamed"]
