"""Segment a corpus from one YAML, as `maskmill segment` does; entry point of a Ray job.

ray job submit --working-dir . -- python -m jobs.segment configs/camvid/segment_deeplab_v3plus.yaml
Exit code 0: every image has a mask; 2: some images were rejected; 1: failed.
"""

from jobs.arguments import main
from pipeline.cli.runs import run_segmentation
from pipeline.config import SegmentConfig

if __name__ == "__main__":
    main(__doc__, SegmentConfig, run_segmentation)
