"""Query a run: counts summed over any group, worst images, the report. Reading a run does not need Ray."""

from pipeline.analysis.drift import Drift
from pipeline.analysis.export import FORMATS, export
from pipeline.analysis.grown_run import open_generations
from pipeline.analysis.intervals import Comparison
from pipeline.analysis.many_runs import RunsView, open_runs
from pipeline.analysis.report import write_report
from pipeline.analysis.run_view import RunView, open_run

__all__ = [
    "FORMATS", "Comparison", "Drift", "RunView", "RunsView", "export", "open_generations", "open_run", "open_runs",
    "write_report",
]  # fmt: skip
