"""Segment a corpus from one YAML; what `maskmill segment` does, as a Ray job's entry point.

ray job submit --working-dir . -- python -m jobs.segment configs/camvid/segment_deeplab_v3plus.yaml
Exit code 0: every image has a mask; 2: there are rejects; 1: failed.
"""

import sys

from jobs.arguments import read
from pipeline.cli.console import console, segmenting
from pipeline.config import SegmentConfig, load
from pipeline.segment.driver import segment

if __name__ == "__main__":
    arguments = read(__doc__)
    cfg = load(SegmentConfig, arguments.config, arguments.overrides)
    if not arguments.check:
        with segmenting("segmenting") as on_progress:
            done = segment(cfg, on_progress)
        console.print(f"{done.rows} masks, {sum(done.rejects.values())} rejects: {done.run}")
        sys.exit(2 if done.rejects else 0)
