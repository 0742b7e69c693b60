"""Code that queries a run from other programs: shown in the report to be copied, and run unchanged by the tests."""

import json

MASKS = "masks/part-*.parquet"

DUCKDB = """\
-- IoU of each class by {by}: counts summed over the group, divided once. C = {classes} classes, row = truth.
with cells as (
  select "{by}", generate_subscripts(confusion, 1) - 1 as cell, unnest(confusion) as pixels
  from read_parquet({sql_glob}) where confusion is not null
), sums as (
  select "{by}", cell // {classes} as truth, cell % {classes} as found, sum(pixels)::bigint as pixels
  from cells group by all
), margins as (
  select "{by}", k.class, sum(pixels) filter (truth = k.class and found = k.class) as hit,
         sum(pixels) filter (truth = k.class or found = k.class) as whole
  from sums, range({classes}) as k(class) group by all
)
select "{by}", avg(hit / whole) as miou from margins where whole > 0 group by all order by all
"""

POLARS = """\
import polars as pl

C = {classes}  # classes; a confusion matrix is C * C counts, row = truth
sums = (
    pl.scan_parquet({glob})
    .filter(pl.col("confusion").is_not_null())
    .group_by("{by}")
    .agg(*(pl.col("confusion").list.get(k).sum().alias(str(k)) for k in range(C * C)))
    .collect()
)
miou = {{}}
for group, *counts in sums.iter_rows():
    rows = [counts[C * k : C * k + C] for k in range(C)]
    whole = [sum(rows[k]) + sum(row[k] for row in rows) - rows[k][k] for k in range(C)]
    iou = [rows[k][k] / whole[k] for k in range(C) if whole[k]]
    miou[group] = sum(iou) / len(iou)
"""

DASK = """\
from pipeline.analysis import open_run

run = open_run({uri})
run.iou(by=["{by}"])  # counts summed over each group, divided once
run.worst(20, by={rank})
run.intervals()  # 95 % bootstrap by image
"""


def snippets(uri: str, by: str, classes: tuple[str, ...]) -> dict[str, str]:
    """Return program -> code to copy, for the run at a URI."""
    glob = f"{uri}/{MASKS}"
    values = {
        "uri": json.dumps(uri),
        "glob": json.dumps(glob),
        "sql_glob": "'" + glob.replace("'", "''") + "'",
        "by": by,
        "classes": len(classes),
        "rank": json.dumps(f"class:{classes[-1]}"),
    }
    return {"Python": DASK.format(**values), "DuckDB": DUCKDB.format(**values), "Polars": POLARS.format(**values)}
