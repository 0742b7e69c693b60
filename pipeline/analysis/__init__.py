"""Questions over a run: counts summed over any group, worst images, the report. Ray is not needed to read."""

from pipeline.analysis.export import FORMATS, export
from pipeline.analysis.intervals import Comparison
from pipeline.analysis.report import write_report
from pipeline.analysis.runs import RunView, open_run
from pipeline.analysis.table import comparison_table, headline_table, iou_table

__all__ = [
    "FORMATS", "Comparison", "RunView", "comparison_table", "export", "headline_table", "iou_table", "open_run",
    "write_report",
]  # fmt: skip
