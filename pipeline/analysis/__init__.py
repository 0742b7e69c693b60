"""Questions over a run: counts summed over any group, worst images, the report. Ray is not needed to read."""

from pipeline.analysis.export import FORMATS, export
from pipeline.analysis.intervals import Comparison
from pipeline.analysis.report import write_report
from pipeline.analysis.run_view import RunView, open_run

__all__ = [
    "FORMATS", "Comparison", "RunView", "export", "open_run", "write_report",
]  # fmt: skip
