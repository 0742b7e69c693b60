"""Make a finished run an Iceberg or Delta table by writing only metadata: no part is copied or changed."""

from pipeline.analysis.tables.delta import register_delta
from pipeline.analysis.tables.iceberg import register_iceberg
from pipeline.analysis.tables.states import Registered

__all__ = ["Registered", "register_delta", "register_iceberg"]
