"""Print the headline and the IoU table of a segmentation YAML's run, and write its report.

ray job submit --working-dir . -- python -m jobs.evaluate configs/camvid/segment_deeplab_v3plus.yaml
"""

from jobs.arguments import main
from pipeline.cli.analysis import evaluate
from pipeline.config import SegmentConfig


def work(cfg: SegmentConfig) -> None:
    evaluate(cfg.output, with_report=True)


if __name__ == "__main__":
    main(__doc__, SegmentConfig, work)
