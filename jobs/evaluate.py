"""Print the headline and the IoU table of the run that a segmentation YAML wrote, and write its report.

ray job submit --working-dir . -- python -m jobs.evaluate configs/camvid/segment_deeplab_v3plus.yaml
"""

from jobs.arguments import read
from pipeline.analysis import open_run, write_report
from pipeline.cli.console import console
from pipeline.cli.run_tables import headline_table, iou_table
from pipeline.config import SegmentConfig, load

if __name__ == "__main__":
    arguments = read(__doc__)
    cfg = load(SegmentConfig, arguments.config, arguments.overrides)
    if not arguments.check:
        view = open_run(cfg.output)
        console.print(headline_table(view))
        console.print(iou_table(view))
        console.print(write_report(cfg.output), soft_wrap=True)
