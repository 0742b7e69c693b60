"""Begin a new run: write its plan, and the `run.json` that describes the run."""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from pipeline import __version__
from pipeline.labels import LabelSpace
from pipeline.runs.info import LabelSpaceInfo, RunInfo, create_info, fingerprint_of
from pipeline.runs.origin import commit, machine
from pipeline.runs.plan import Plan, write_plan
from pipeline.runs.schema import FORMAT, region_schema

PACKAGES = ("torch", "torchvision", "ray", "pyarrow", "numpy", "pillow")


def begin_run(
    uri: str,
    identity: dict[str, Any],
    config: dict[str, Any],
    space: LabelSpace,
    plan: Iterable[pa.Table],
    packages: Iterable[str],
) -> None:
    """Write the plan of a run, then its `run.json`, unless another writer was first.

    Args:
        identity: everything that decides the output bytes, except the plan.
        plan: tables as `plan_shards` returns them.
        packages: further packages, beside `PACKAGES`, whose versions are recorded.
    Raises:
        UserError: a group has the name of another column.
    """
    written = write_plan(uri, plan)
    if identity.get("regions"):
        region_schema(Plan(uri, written).group_fields)  # raises if a group has the name of another column
    complete = {**identity, "plan_sha256": written.sha256}
    info = RunInfo(
        format=FORMAT,
        fingerprint=fingerprint_of(complete),
        identity=complete,
        config=config,
        label_space=LabelSpaceInfo.of(space),
        versions=_versions((*PACKAGES, *packages)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        plan=written,
        commit=commit(),
        machine=machine(),
    )
    create_info(uri, info)


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, of this package (it may run without being installed), and of other packages."""
    known = {"python": sys.version.split()[0], "maskmill": __version__}
    return known | {name: version(name) for name in packages}
