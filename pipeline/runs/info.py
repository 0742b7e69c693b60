"""`run.json` and `_SUCCESS.json` as typed records: what a run is, what decides its output, and how it ended.

Both are read and written only here. A damaged or edited file raises a UserError that says what is wrong. A record's `faults`
lists its contradictions with itself; `verify` compares it with the plan and the parts.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from pipeline import labels, storage
from pipeline.config import ImageConfig, RegionsConfig, canonical, differences, parse
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.runs.schema import FORMAT, GROWN_FORMAT

MAX_FAULTS = 4  # most faults in one message


def _with_time_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise UserError(f"{text} has no time zone")
    return text


Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Moment = Annotated[str, AfterValidator(_with_time_zone)]  # ISO 8601


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class PlanPart(_Record):
    """One file of a plan."""

    name: str  # relative to the run
    first_shard: Count
    rows: Count
    sha256: Sha256


class PlanInfo(_Record):
    """The plan in run.json; `sha256` is of the concatenated bytes of all parts."""

    images: Count
    shards: Count
    sha256: Sha256
    parts: tuple[PlanPart, ...]


class LabelSpaceInfo(_Record):
    """The label space, written out for readers without this package; runs of early versions have no `section`."""

    name: str
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    section: dict[str, Any] | None = None  # the complete label space

    @classmethod
    def of(cls, space: LabelSpace) -> "LabelSpaceInfo":
        return cls(name=space.name, classes=space.classes, colours=space.colours, section=space.to_section())

    @property
    def space(self) -> LabelSpace:
        """The label space; UserError if it is damaged."""
        return labels.from_section(self.section or self.name, where="run.json: label_space")

    def faults(self) -> Iterator[str]:
        """Yield the contradictions of the record with itself."""
        try:
            space = self.space
        except UserError as error:
            yield str(error).removeprefix("run.json: ")
            return
        if (self.name, self.classes, self.colours) != (space.name, space.classes, space.colours):
            yield f"label_space has other classes or colours than {space.name}"


class CompactedFrom(_Record):
    """The run that a compacted copy was made from."""

    uri: str
    success_sha256: Sha256


class RunInfo(_Record):
    """`run.json`."""

    format: int
    fingerprint: Sha256
    identity: dict[str, Any]  # everything that decides the output; its hash is the fingerprint
    config: dict[str, Any]
    label_space: LabelSpaceInfo
    versions: dict[str, str]
    created: Moment
    plan: PlanInfo
    compacted_from: CompactedFrom | None = None
    # Of the code that began the run; None outside a repository, and for runs of early versions.
    commit: str | None = None
    machine: str | None = None  # that began the run

    @property
    def image(self) -> ImageConfig | None:
        """Bands and range of the images, as the checkpoint declares them; None = 8-bit pictures."""
        values = self.identity.get("image")
        return None if values is None else parse(ImageConfig, values, where="run.json: identity.image")

    @property
    def regions(self) -> RegionsConfig | None:
        """Settings of the table of regions; None = there is none."""
        values = self.identity.get("regions")
        return None if values is None else parse(RegionsConfig, values, where="run.json: identity.regions")

    def faults(self) -> list[str]:
        """Return the contradictions of the record with itself, each as a sentence."""
        return [f"run.json: {fault}" for fault in self._faults()]

    def _faults(self) -> Iterator[str]:
        if (made := fingerprint_of(self.identity)) != self.fingerprint:
            yield f"the fingerprint {self.fingerprint[:12]} is not that of its identity, {made[:12]}"
        if self.identity.get("plan_sha256") != self.plan.sha256:
            yield "plan.sha256 is not identity.plan_sha256"
        here = {key: self.config[key] for key in self.identity.keys() & self.config.keys() - {"label_space"}}
        for change in differences({key: self.identity[key] for key in here}, here):
            yield f"identity and config differ in {change}"
        yield from self._label_space_faults()
        yield from self._plan_faults()

    def _label_space_faults(self) -> Iterator[str]:
        if faults := list(self.label_space.faults()):
            yield from faults
            return
        bound = self.identity.get("label_space")
        if bound is not None and bound != labels.identity_of(self.label_space.space):
            named = bound if isinstance(bound, str) else bound.get("name")
            if named != self.label_space.name:
                yield f"label_space.name is '{self.label_space.name}', identity.label_space '{named}'"
            else:
                known = labels.from_section(bound, where="run.json: identity.label_space")
                changed = labels.changes(known, self.label_space.space)
                yield f"label_space is not identity.label_space: {'; '.join(changed) or 'it is not the built-in one'}"

    def _plan_faults(self) -> Iterator[str]:
        plan = self.plan
        if (rows := sum(part.rows for part in plan.parts)) != plan.images:
            yield f"plan.images is {plan.images}, the plan's parts have {rows}"
        firsts = [part.first_shard for part in plan.parts]
        if firsts != sorted(set(firsts)) or firsts[:1] not in ([], [0]) or plan.shards <= max(firsts, default=-1):
            yield f"plan.shards is {plan.shards}, the plan's parts begin with the shards {firsts[:MAX_FAULTS]}"
        if plan.shards > plan.images:
            yield f"plan.shards is {plan.shards}, of {plan.images} images"
        for number, part in enumerate(plan.parts):
            if part.name != plan_name(number, part.sha256):
                yield f"plan.parts[{number}] is named {part.name}, its sha256 is {part.sha256[:12]}"


@dataclass(frozen=True, slots=True, config=ConfigDict(strict=True))
class PartEntry:
    """One part in `_SUCCESS.json`; with slots, since there may be a million of them."""

    bytes: Count
    rows: Count
    footer_sha256: Sha256

    @property
    def json(self) -> str:
        """The entry as text in `_SUCCESS.json`."""
        return json.dumps({"bytes": self.bytes, "rows": self.rows, "footer_sha256": self.footer_sha256})


class GenerationInfo(_Record):
    """One generation after the first in `_SUCCESS.json`: what it added to the run and removed from it."""

    number: int = Field(ge=2)
    fingerprint: Sha256  # of the rows that it answered
    finished: Moment
    images: Count  # in the archive, as of this generation
    new: Count
    replaced: Count
    gone: Count
    shards: Count  # for the new and the replaced images
    changes_sha256: Sha256  # of its changes.parquet


class Success(_Record):
    """`_SUCCESS.json`."""

    format: int
    fingerprint: Sha256
    finished: Moment
    rows: Count
    rejects: Count
    rejects_by_reason: dict[str, Count]
    parts: dict[str, PartEntry]
    regions: Count | None = None  # rows of the table of regions; None: the run has none
    files: dict[str, Sha256] | None = None  # sha256 of run.json and plan of all generations; None: early version
    # sha256 of the lines `<sha256>  <name>` of `files` and of the parts' footers, sorted by name.
    root_sha256: Sha256 | None = None
    generations: tuple[GenerationInfo, ...] = ()  # after the first: pipeline/runs/generations.py
    previous_sha256: Sha256 | None = None  # of the `_SUCCESS.json` of the generation before

    @property
    def generation(self) -> int:
        """Number of the newest generation."""
        return 1 + len(self.generations)

    def faults(self) -> list[str]:
        """Return the contradictions of the record with itself, each as a sentence."""
        return [f"_SUCCESS.json: {fault}" for fault in self._faults()]

    def _faults(self) -> Iterator[str]:
        counted = [("rows", "masks", self.rows), ("rejects", "rejects", self.rejects)]
        for key, kind, said in (*counted, ("regions", "regions", self.regions or 0)):
            if (rows := sum(part.rows for name, part in self.parts.items() if name.startswith(f"{kind}/"))) != said:
                yield f"{key} is {said}, its {kind} parts have {rows}"
        if (reasons := sum(self.rejects_by_reason.values())) != self.rejects:
            yield f"rejects is {self.rejects}, its reasons have {reasons}"
        if self.files is not None and self.root_sha256 != root_of(self.files, self.parts):
            yield "root_sha256 is not that of its files and parts"
        if (numbers := [one.number for one in self.generations]) != list(range(2, 2 + len(numbers))):
            yield f"its generations are {numbers}, they must follow each other from 2 on"
        if self.format != (GROWN_FORMAT if self.generations else FORMAT):
            yield f"format is {self.format}, of {self.generation} generations"
        if (self.previous_sha256 is None) != (not self.generations):
            yield "previous_sha256 must be there from the second generation on"

    def content(self) -> bytes:
        """Return the record as JSON, with one line per part."""
        absent = {name for name in ("regions", "files", "root_sha256") if getattr(self, name) is None}
        absent |= set() if self.generations else {"generations", "previous_sha256"}
        head = json.dumps(self.model_dump(exclude={"parts", *absent}))
        content = bytearray(head[:-1].encode() + b',\n"parts": {')
        for number, (name, entry) in enumerate(self.parts.items()):
            content += f'{"," if number else ""}\n"{name}": {entry.json}'.encode()
        return bytes(content + b"\n}}\n")


class _Format(BaseModel):
    """The key that is parsed first: a file of another format is not parsed further."""

    format: Any


R = TypeVar("R", RunInfo, Success)


def describe(uri: str) -> RunInfo:
    """Return `run.json` of a run; UserError if there is none, if it has another format, or if it was edited."""
    info = read_info(uri)
    if faults := info.faults():
        raise UserError(f"run {uri} is not what it was made as: {_first_faults(faults)}; restore the file from a copy")
    return info


def read_info(uri: str) -> RunInfo:
    """Return `run.json` of a run, even if it contradicts itself; UserError if there is none, or it cannot be read."""
    try:
        data = storage.read(_info_uri(uri))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"run {uri}: no run.json there; give the output of `maskmill segment`{_below(uri)}") from None
    return _parsed(RunInfo, data, f"run {uri}: run.json", "restore the file from a copy, or choose another output")


def _below(uri: str) -> str:
    """Name runs inside a local folder that is not a run itself."""
    if "://" in uri:
        return ""
    runs = sorted(str(found.parent) for found in Path(uri).glob("*/run.json"))
    return f", such as {', '.join(runs[:MAX_FAULTS])}" if runs else ""


def run_exists(uri: str) -> bool:
    """Return whether a run was begun at a URI."""
    return storage.exists(_info_uri(uri))


def create_info(uri: str, info: RunInfo) -> None:
    """Write `run.json`, unless another writer was first."""
    absent = {name for name in ("compacted_from", "commit", "machine") if getattr(info, name) is None}
    values = info.model_dump(exclude=absent)
    storage.create(_info_uri(uri), json.dumps(values, indent=2).encode())


def read_success(uri: str) -> Success | None:
    """Return `_SUCCESS.json` of a run; None for a run that is not finished; UserError if it cannot be read."""
    try:
        data = storage.read(success_uri(uri))
    except FileNotFoundError:
        return None
    return parse_success(data, f"run {uri}: _SUCCESS.json", _rewrite(uri))


def parse_success(data: bytes, where: str, advice: str) -> Success:
    """Return the record in the bytes of a `_SUCCESS.json`, current or kept; UserError if they are not such a record."""
    return _parsed(Success, data, where, advice)


def success_sha256(uri: str) -> str | None:
    """Return the sha256 of a run's `_SUCCESS.json`; None for a run that is not finished."""
    try:
        return hashlib.sha256(storage.read(success_uri(uri))).hexdigest()
    except FileNotFoundError:
        return None


def put_success(uri: str, success: Success) -> None:
    """Write `_SUCCESS.json`: the run is finished."""
    storage.put(success_uri(uri), success.content())


def restore_success(uri: str, state: Success) -> None:
    """Write `_SUCCESS.json` again, if it is gone, from its newest kept copy; only the run's writer may call it."""
    if not storage.exists(success_uri(uri)):
        put_success(uri, state)


def delete_success(uri: str) -> None:
    """Remove `_SUCCESS.json`: the run is being written again."""
    storage.delete(success_uri(uri))


def check_success(uri: str, success: Success, fingerprint: str) -> None:
    """Raise UserError if a `_SUCCESS.json` belongs to another run, or contradicts itself."""
    faults = success.faults()
    if success.fingerprint != fingerprint:
        faults.append(f"_SUCCESS.json: its fingerprint is {success.fingerprint[:12]}, the run's is {fingerprint[:12]}")
    if faults:
        raise UserError(f"run {uri} did not end as it says: {_first_faults(faults)}; {_rewrite(uri)}")


def root_of(files: dict[str, str], parts: dict[str, PartEntry]) -> str:
    """Return the root hash of a run, which covers `run.json`, the plan, and every byte of every part.

    A part is covered by its footer's sha256, since the footer holds the sha256 of everything before it.
    """
    root = hashlib.sha256()
    for name in sorted({*files, *parts}):
        sha256 = parts[name].footer_sha256 if name in parts else files[name]
        root.update(f"{sha256}  {name}\n".encode())
    return root.hexdigest()


def files_of(uri: str, info: RunInfo) -> dict[str, str]:
    """Return name in the run -> sha256, for `run.json` and the plan's parts."""
    return {
        "run.json": hashlib.sha256(storage.read(_info_uri(uri))).hexdigest(),
        **{part.name: part.sha256 for part in info.plan.parts},
    }


def fingerprint_of(identity: dict[str, Any]) -> str:
    """Return the sha256 of everything that decides a run's output."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def plan_name(number: int, sha256: str) -> str:
    """Return the name of a plan's part, relative to the run."""
    return f"plan/part-{number:05d}-{sha256[:8]}.parquet"


def _info_uri(uri: str) -> str:
    return storage.join(uri, "run.json")


def success_uri(uri: str) -> str:
    """Return the URI of a run's `_SUCCESS.json`, which says that the run is finished."""
    return storage.join(uri, "_SUCCESS.json")


def _rewrite(uri: str) -> str:
    return f"delete the file and run `maskmill resume {uri}`, which writes it again from the parts"


def _first_faults(faults: list[str]) -> str:
    more = len(faults) - MAX_FAULTS
    return "; ".join([*faults[:MAX_FAULTS], *([f"and {more} more"] if more > 0 else [])])


def _parsed(record: type[R], data: bytes, where: str, advice: str) -> R:
    """Parse the bytes of a file; UserError says what is wrong with them."""
    if not data.strip():
        raise UserError(f"{where} is empty; {advice}")
    try:
        found = _Format.model_validate_json(data).format
    except ValidationError as error:
        if error.errors(include_input=False)[0]["type"] == "json_invalid":
            raise UserError(f"{where} is not JSON, or only the beginning of it; {advice}") from None
        raise UserError(f"{where} is JSON, but no run wrote it: it has no `format`; {advice}") from None
    known = (FORMAT, GROWN_FORMAT) if record is Success else (FORMAT,)
    if found not in known:
        raise UserError(
            f"{where} has format {found!r:.40}, this version reads {' and '.join(map(str, known))}; use the version "
            "that wrote it"
        )
    try:
        return record.model_validate_json(data)
    except ValidationError as error:
        raise UserError(
            f"{where} is damaged: {_first_faults([_problem(dict(p)) for p in error.errors()])}; {advice}"
        ) from None


def _problem(problem: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "the file"
    return f"{key} is missing" if problem["type"] == "missing" else f"{key} cannot be {problem['input']!r:.40}"
