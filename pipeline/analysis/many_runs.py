"""Several runs as one: such as a run every night, or pieces of an archive that were segmented separately."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis import card
from pipeline.analysis.doubles import shared_image
from pipeline.analysis.drift import ALIKE, LAST, LEAST, Asked, Drift, find_drift
from pipeline.analysis.pictures import Pictures
from pipeline.analysis.run_view import RunView, open_run
from pipeline.analysis.sums import Sums, batches
from pipeline.analysis.unlike import find_unlike
from pipeline.config import ClassMap, differences
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.runs import Part, Plan

if TYPE_CHECKING:
    import dask.dataframe as dd

RUN = "run"  # name of the column that says which run a row or count belongs to
T = TypeVar("T")
IMAGES = ("plan_sha256", "corpus", "split")  # the keys of a run's identity that say which images it has
MAX_DIFFERENCES = 3  # settings that one line lists


def open_runs(uris: Iterable[str], allow_doubles: bool = False) -> "RunsView":
    """Open several runs as one view, oldest first: their counts add up, and `run` is a group column.

    The runs may differ in weights and settings; printing the view shows how. The images' addresses are read once, to check that
    no image is in two runs.

    Args:
        uris: URIs of the runs. A run is named by the last part of its URI, or by more of it if two would have the same name.
        allow_doubles: count an image twice if it is in two runs.
    Raises:
        UserError: no run is given, their label spaces differ, or an image is in two of them.
    """
    return joined([open_run(uri) for uri in uris], allow_doubles)


def joined(members: Sequence[RunView], allow_doubles: bool = False) -> "RunsView":
    """See `open_runs`."""
    if not members:
        raise UserError("no run to open: name at least one")
    first = members[0]
    for other in members[1:]:
        if other.space != first.space:
            raise UserError(
                f"{first.uri} is in {first.space.name} and {other.uri} in {other.space.name}, which have other classes or "
                "colours: open runs of one label space together"
            )
    view = of_members(dict(zip(run_names([member.uri for member in members]), members, strict=True)))
    if not allow_doubles and (found := shared_image(view.members, ["uri", "member"])):
        image_id, one, two = found
        raise UserError(
            f"image '{image_id}' is answered in {one} and in {two}; compare runs over the same images with `.compare`, or "
            "count it twice: open_runs(..., allow_doubles=True)"
        )
    return view


def of_members(members: "dict[str, RunView]") -> "RunsView":
    """Return a view of runs by name, oldest first, without any check."""
    first = next(iter(members.values()))
    return RunsView(", ".join(members), first.description, first.space, unmapped=first.unmapped, members=members)


def run_names(uris: Sequence[str]) -> list[str]:
    """Return the shortest endings of the URIs that differ from each other; UserError if a URI is given twice."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for uri in uris:
        if uris.count(uri) > 1:
            raise UserError(f"{uri} is given twice; name each run once")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return list(uris)


@dataclass(frozen=True, repr=False)
class RunsView(RunView):
    """A read-only view of several runs together: like `RunView`, with `run` as a further group column."""

    members: "dict[str, RunView]" = field(default_factory=dict)  # by name, the oldest first

    def __repr__(self) -> str:
        lines = [f"{len(self.members)} runs, {self.space.name}, {self.space.num_classes} classes"]
        lines += [
            f"  {name}: {card.state(member)} · {card.answered(member)}"
            + (f" · other than the first: {self.other_settings[name]}" if name in self.other_settings else "")
            for name, member in self.members.items()
        ]
        return "\n".join([*lines, "  .iou(by=['run'])  .areas(by=['run'])  .drift()  .members[name]"])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    @cached_property
    def other_settings(self) -> dict[str, str]:
        """Run -> how the settings that affect its masks differ from the first run's, images aside; only runs that differ."""
        found = {}
        for name, member in self.members.items():
            first, mine = (
                {key: value for key, value in view.description.identity.items() if key not in IMAGES}
                for view in (self, member)
            )
            words = list(differences(first, mine))
            more = [f"and {len(words) - MAX_DIFFERENCES} more"] if len(words) > MAX_DIFFERENCES else []
            if words:
                found[name] = ", ".join([*words[:MAX_DIFFERENCES], *more])
        return found

    def listed(self, kind: str) -> list[Part]:
        """The parts of all runs, in their order."""
        return [part for member in self.members.values() for part in member.listed(kind)]

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """`run`, and the group columns that all runs have."""
        return (RUN, *_common([member.groups for member in self.members.values()]))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of a mask row that all runs have."""
        return _common([member.columns for member in self.members.values()])

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of metrics that are the same in all runs."""
        first, *others = (member.settings for member in self.members.values())
        return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}

    def has_raw(self) -> bool:
        return all(member.has_raw() for member in self.members.values())

    def has_unknown(self) -> bool:
        return all(member.has_unknown() for member in self.members.values())

    @property
    def num_images(self) -> int:
        """Number of images of all runs."""
        return sum(member.num_images for member in self.members.values())

    def finished(self) -> str | None:
        """When the last of the runs was finished; None while one is not."""
        found = [member.finished() for member in self.members.values()]
        return None if None in found else max(str(one) for one in found)

    def sums(self, column: str, by: Sequence[str] = ()) -> Sums:
        """See `RunCounts.sums`; grouped by `run`, they are the sums of each run, which are read once."""
        if RUN not in by:
            return super().sums(column, by)
        place, inner = list(by).index(RUN), [name for name in by if name != RUN]
        return {
            (*key[:place], name, *key[place:]): values
            for name, member in self.members.items()
            for key, values in member.sums(column, inner).items()
        }

    def counts(self, column: str, by: Sequence[str] = ()) -> pd.DataFrame:
        """See `RunCounts.counts`; `run` is a group like others, and is in the order of the runs if it comes first."""
        table = super().counts(column, by)
        if list(by[:1]) != [RUN]:
            return table
        names = list(self.members)
        order = [names.index(name) for name in table.index.get_level_values(RUN)]
        return table.iloc[np.argsort(order, kind="stable")]

    def intervals_by(self, by: Sequence[str], seed: int = 0) -> pd.DataFrame:
        """See `RunView.intervals_by`."""
        if RUN not in by:
            return super().intervals_by(by, seed)
        place, inner, rows = list(by).index(RUN), [name for name in by if name != RUN], {}
        for name, member in self.members.items():
            found = member.intervals_by(inner, seed)
            for key, row in zip(found.index, found.to_dict("records"), strict=True):
                parts = _group_of(key) if inner else ()
                rows[(*parts[:place], name, *parts[place:])] = row
        index = self.iou(by).index
        table = pd.DataFrame([rows[_group_of(key)] for key in index], index=index)
        return table.astype({"images": np.int64})

    def frame(self, columns: Sequence[str] | None = None) -> "dd.DataFrame":
        """The mask rows of all runs as a lazy Dask frame, with the column `run`; see `RunCounts.frame`."""
        import dask.dataframe as dd  # takes half a second, so only where a frame is needed

        wanted = [name for name in columns or self.columns if name != RUN]
        return dd.concat([member.frame(wanted).assign(**{RUN: name}) for name, member in self.members.items()])

    def regions(
        self, columns: Sequence[str] | None = None, classes: Sequence[str] = (), min_area: int = 1
    ) -> "dd.DataFrame":
        """The tables of regions of all runs as a lazy Dask frame, with the column `run`; see `RunCounts.regions`."""
        import dask.dataframe as dd  # takes half a second, so only where a frame is needed

        wanted = None if columns is None else [name for name in columns if name != RUN]
        found = [
            member.regions(wanted, classes, min_area).assign(**{RUN: name}) for name, member in self.members.items()
        ]
        return dd.concat(found, join="inner")

    def rejects(self) -> pd.DataFrame:
        """The reject rows of all runs, with the column `run`."""
        found = [member.rejects().assign(**{RUN: name}) for name, member in self.members.items()]
        return pd.concat([one for one in found if len(one)] or found[:1], ignore_index=True)

    def worst(self, n: int, by: str = "miou") -> pd.DataFrame:
        """See `RunView.worst`; the result has the column `run`."""
        found = [member.worst(n, by).assign(**{RUN: name}) for name, member in self.members.items()]
        return pd.concat(found).sort_values([by, "image_id"]).head(n).reset_index(drop=True)

    def drift(
        self, last: int = LAST, by: Sequence[str] = (), alike: Sequence[str] = ALIKE, least: float = LEAST
    ) -> Drift:
        """Compare the newest run, which is the last one, with the `last` runs before it; needs no labels.

        Compared are each class's share of the pixels, the mean confidence and entropy of the images, and the share of rejects;
        p-values are adjusted for all of these comparisons together (Holm).

        Args:
            by: group columns; each group is compared with the same group in the earlier runs.
            alike: columns whose values together say which images are similar, such as the frames of one drive: these are one
                sampling unit. An image without a value in the last column is a unit of its own.
            least: a change below this fraction of the earlier value (for confidence, of its distance to 1) does not count,
                however certain it is.
        Raises:
            UserError: there is only one run, or some run lacks a column.
        """
        asked = Asked(last, tuple(dict.fromkeys(by)), tuple(alike), least)
        asked.check(self.groups[1:])
        return find_drift(list(self.members), list(self.members.values()), asked)

    def unlike(self, n: int = 20, last: int = LAST, alike: Sequence[str] = ALIKE) -> pd.DataFrame:
        """Find the images of the newest run that differ most from those of the `last` runs before it, by shares of classes.

        Args:
            alike: as in `drift`; the farthest image of every sampling unit comes before a second one of any unit.
        Returns:
            `image_id`, `distance` (the share of the image's pixels that would have to change class to have the class shares of
            the nearest earlier image), `nearest` and `nearest_run` (that image), `confidence`, `entropy`; the farthest first.
        Raises:
            UserError: there is only one run, or some run lacks a column.
        """
        asked = Asked(last, (), tuple(alike))
        asked.check(self.groups[1:])
        return find_unlike(self.members, n, asked)

    def merged(self, groups: Mapping[str, Sequence[str]]) -> "RunsView":
        """See `RunView.merged`."""
        return self._of(lambda member: member.merged(groups))

    def evaluated_on(
        self,
        labels: str,
        class_map: ClassMap | None = None,
        label_space: LabelSpace | None = None,
        layout: str | None = None,
        label_glob: str | None = None,
    ) -> "RunsView":
        """See `RunView.evaluated_on`; each run must have an image that one of the labels belongs to."""
        return self._of(lambda member: member.evaluated_on(labels, class_map, label_space, layout, label_glob))

    def masks(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """See `RunView.masks`; UserError names an id that is in two runs."""
        return self._by_home(ids, lambda member, some: member.masks(some))

    def confidence_maps(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """See `RunView.confidence_maps`; UserError names an id that is in two runs."""
        return self._by_home(ids, lambda member, some: member.confidence_maps(some))

    def pictures(self, ids: Sequence[str]) -> dict[str, Pictures]:
        """See `RunView.pictures`; UserError names an id that is in two runs."""
        return self._by_home(ids, lambda member, some: member.pictures(some))

    def summary(self) -> dict[str, Any]:
        """See `RunView.summary`; `images_per_s` is None, since nothing ran between the runs."""
        return super().summary() | {"images_per_s": None}

    def plan(self) -> Plan:
        """Raise UserError, since each run has a plan of its own."""
        raise UserError(
            f"{len(self.members)} runs have no plan together; ask one of them: .members['{next(iter(self.members))}']"
        )

    def check_ids(self) -> None:
        """Raise UserError if two runs share an image id, since queries by image would confuse their images."""
        if found := shared_image(self.members, ["image_id"]):
            one, two = found[1:]
            raise UserError(
                f"image '{found[0]}' is in {one} and in {two}, as two images of one id; ask the runs one by one: "
                f".members['{one}']"
            )

    def _by_home(self, ids: Sequence[str], ask: Callable[[RunView, list[str]], dict[str, T]]) -> dict[str, T]:
        found: dict[str, T] = {}
        for name, some in self._homes(ids).items():
            found |= ask(self.members[name], some)
        return {image_id: found[image_id] for image_id in ids}

    def _homes(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """Return run -> which of these images it has masks of."""
        homes, seen = dict[str, list[str]](), dict[str, str]()
        wanted = pa.array(list(ids), pa.string())
        for name, member in self.members.items():
            columns = (batch.column("image_id") for batch in batches(member.parts("masks"), ["image_id"]))
            homes[name] = [one for column in columns for one in column.filter(pc.is_in(column, wanted)).to_pylist()]
            for image_id in homes[name]:
                if image_id in seen:
                    raise UserError(
                        f"image '{image_id}' is in {seen[image_id]} and in {name}; ask one of them: .members['{name}']"
                    )
                seen[image_id] = name
        if missing := [image_id for image_id in ids if image_id not in seen]:
            raise UserError(f"no mask of image '{missing[0]}' in {self.uri}; see .rejects() and .frame(['image_id'])")
        return {name: some for name, some in homes.items() if some}

    def _of(self, change: Callable[[RunView], RunView]) -> "RunsView":
        return of_members({name: change(member) for name, member in self.members.items()})


def _group_of(key: object) -> tuple[object, ...]:
    """Return the values of a row of an index by groups; an index of several columns has NaN for no value, other ones None."""
    return tuple(None if pd.isna(value) else value for value in (key if isinstance(key, tuple) else (key,)))


def _common(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for name in names[0] if all(name in other for other in names[1:]))
