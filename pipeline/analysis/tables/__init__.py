"""A finished run as a table of an Iceberg catalog or as a Delta table, by metadata alone: no part is copied or changed."""

from pipeline.analysis.tables.delta import register_delta
from pipeline.analysis.tables.iceberg import register_iceberg
from pipeline.analysis.tables.states import Registered

__all__ = ["Registered", "register_delta", "register_iceberg"]
