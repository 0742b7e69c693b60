"""Questions over a run: counts summed over any group, worst images, the report. Ray is not needed to read."""

from pipeline.analysis.report import write_report
from pipeline.analysis.runs import RunView, open_run
from pipeline.analysis.table import iou_table

__all__ = ["RunView", "iou_table", "open_run", "write_report"]
