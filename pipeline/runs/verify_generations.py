"""Verify a run with several generations: each of them as verify.py does for a run with one.

In every generation, each image that the archive had then is answered once: the images of all plans so far, without those
withdrawn so far. Superseded parts are read where they were moved to. Each state of `_SUCCESS.json` holds the sha256 of the one
before it.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.config import differences
from pipeline.read_ahead import read_ahead
from pipeline.runs.generations import (
    GONE,
    NEW,
    REPLACED,
    fingerprints,
    folder,
    generation_with,
    kept_uri,
    num_images,
    parts_in,
    read_changes,
    shard_starts,
    state_of,
    withdrawn_name,
)
from pipeline.runs.info import PartEntry, RunInfo, Success, files_of, read_info, success_uri
from pipeline.runs.lease import lease_faults
from pipeline.runs.parts import Part
from pipeline.runs.plan import Plan
from pipeline.runs.read_again import Answer, Expected, read_again
from pipeline.runs.schema import PixelConfidence
from pipeline.runs.verify import (
    Verification,
    disagreements,
    file_faults,
    is_stranger,
    miscounts,
    ranges,
    region_faults,
    shards_of,
    stranger_fault,
    threads_for,
    unanswered,
)


@dataclass
class _Version:
    """One part, and the first and last generation that it belongs to."""

    part: Part
    entry: PartEntry
    since: int
    until: int  # inclusive


@dataclass
class _Proof:
    """Records of all generations, and the faults found."""

    uri: str
    first: RunInfo
    states: list[Success]
    plans: list[Plan] = field(default_factory=list)
    # Shard -> ids of its withdrawn images, each with the generation that withdrew it.
    withdrawn: dict[int, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    found: Verification = field(default_factory=lambda: Verification(0))

    @property
    def newest(self) -> Success:
        return self.states[-1]

    @property
    def starts(self) -> list[int]:
        """For each generation, the number of its first shard."""
        return shard_starts(self.first, self.newest.generations)

    def origin(self, shard: int) -> int:
        """Return the generation whose plan has a shard."""
        return generation_with(self.starts, shard)

    @property
    def num_shards(self) -> int:
        return self.first.plan.shards + sum(one.shards for one in self.newest.generations)


def verify_generations(uri: str, info: RunInfo, newest: Success) -> Verification:
    """Re-read every part of every generation and count.

    Raises:
        UserError: the record, the plan or the changes of a generation are gone or damaged.
    """
    states = [state_of(uri, newest, number) for number in range(1, newest.generation + 1)]
    proof = _Proof(uri, info, states)
    found = proof.found
    found.add([*info.faults(), *lease_faults(uri), *_chain(proof)])
    found.add(fault for state in states for fault in state.faults())
    _prove_plans(proof)
    found.add(file_faults(newest, _files(proof)))
    found.add(_strangers(proof))
    counted, reasons = _prove_parts(proof)
    found.add(miscounts(newest, counted, reasons))
    found.images, found.masks, found.rejects = newest.generations[-1].images, counted["masks"], counted["rejects"]
    return found


def _chain(proof: _Proof) -> Iterator[str]:
    """Yield contradictions between the states."""
    for before, state in zip(proof.states, proof.states[1:], strict=False):
        name, number = f"generations/{before.generation:05d}.json", before.generation
        if hashlib.sha256(storage.read(kept_uri(proof.uri, number))).hexdigest() != state.previous_sha256:
            yield f"{name} is not the state that generation {state.generation} was made from (sha256 differs)"
        if state.generations[:-1] != before.generations:
            yield f"the state of generation {state.generation} has other generations before it than {name}"
    newest = proof.newest.generation
    if not storage.exists(success_uri(proof.uri)):
        yield f"_SUCCESS.json is gone; `maskmill resume {proof.uri}` writes it again"
        return
    if storage.read(kept_uri(proof.uri, newest)) != proof.newest.content():
        yield f"_SUCCESS.json is not generations/{newest:05d}.json; restore it from there"


def _prove_plans(proof: _Proof) -> None:
    """Check the plan and the changes of each generation."""
    proof.plans.append(Plan(proof.uri, proof.first.plan))
    proof.found.add(proof.plans[0].prove().problems)
    for before, entry in zip(proof.states, proof.newest.generations, strict=False):
        where = f"generations/{entry.number:05d}"
        info = read_info(folder(proof.uri, entry.number))
        plan = Plan(folder(proof.uri, entry.number), info.plan)
        found = plan.prove()
        said = [*info.faults(), *found.problems, *_foreign(proof.first, info)]
        if info.fingerprint != entry.fingerprint:
            said.append(f"its fingerprint is {info.fingerprint[:12]}, _SUCCESS.json says {entry.fingerprint[:12]}")
        if found.shards != entry.shards:
            said.append(f"its plan has {found.shards} shards, _SUCCESS.json says {entry.shards}")
        said += _prove_changes(proof, before, entry.number, plan)
        proof.found.add(f"{where}: {words}" for words in said)
        proof.plans.append(plan)


def _foreign(first: RunInfo, info: RunInfo) -> Iterator[str]:
    """Yield settings that affect rows and differ from those of the first generation."""
    one, other = ({**record.identity, "plan_sha256": None} for record in (first, info))
    for change in differences(one, other):
        yield f"its rows were made with other settings than those of the first generation: {change}"


def _prove_changes(proof: _Proof, before: Success, number: int, plan: Plan) -> Iterator[str]:
    """Compare a generation's changes with `_SUCCESS.json` and with its plan; record withdrawn images in `proof`."""
    entry = proof.newest.generations[number - 2]
    rows = read_changes(proof.uri, number, entry).to_pylist()
    counts = Counter(row["change"] for row in rows)
    images = num_images(proof.first, before)
    for key, said, found in (
        (NEW, entry.new, counts[NEW]),
        (REPLACED, entry.replaced, counts[REPLACED]),
        (GONE, entry.gone, counts[GONE]),
        ("images", entry.images, images + counts[NEW] - counts[GONE]),
    ):
        if said != found:
            yield f"_SUCCESS.json says {key} {said}, changes.parquet makes it {found}"
    ids = Counter(image_id for shard in shards_of(plan) for image_id in shard.to_pylist())
    if ids != Counter(row["image_id"] for row in rows if row["change"] != GONE):
        yield "its plan has other images than its changes.parquet has new and replaced ones"
    for row in rows:
        if (row["change"] == NEW) != (row["generation"] is None):
            yield f"changes.parquet: '{row['image_id']}' is {row['change']}, with no such generation of its row"
        elif row["generation"] is not None:
            shard = proof.starts[row["generation"] - 1] + row["shard"]
            proof.withdrawn[shard].append((row["image_id"], number))


def _files(proof: _Proof) -> dict[str, str]:
    """Return name in the run -> sha256, for `run.json`, plan and changes of all generations."""
    found = files_of(proof.uri, proof.first)
    for entry in proof.newest.generations:
        below, home = f"generations/{entry.number:05d}", folder(proof.uri, entry.number)
        found |= {f"{below}/{name}": sha256 for name, sha256 in files_of(home, read_info(home)).items()}
        found[f"{below}/changes.parquet"] = entry.changes_sha256  # read_changes has compared the file with it
    return found


def _strangers(proof: _Proof) -> Iterator[str]:
    """Yield files in the folders of parts that the newest generation does not list."""
    state = proof.newest
    expected = state.parts.keys() | {part.name for part in proof.plans[0].parts}
    superseded = {name for one in proof.states[:-1] for name in one.parts} - state.parts.keys()
    kinds = dict.fromkeys(["masks", "rejects", *(name.partition("/")[0] for name in state.parts)])
    for kind in [*kinds, "plan"]:
        for file in storage.list_files(storage.join(proof.uri, kind)):
            name = f"{kind}/{file.path}"
            if not is_stranger(file, name, expected):
                continue
            if (
                name in superseded
                or f"part-g{state.generation + 1:05d}-" in name
                or f".g{state.generation + 1:05d}." in name
            ):
                yield (
                    f"{name} belongs to another generation than the newest: an extension was broken off while it was "
                    f"published; run `maskmill extend {proof.uri}`, which ends it"
                )
            else:
                yield stranger_fault(name)


def _prove_parts(proof: _Proof) -> tuple[Counter[str], Counter[str]]:
    """Read every part of every generation once; count the newest generation's rows by kind, and its rejects by reason."""
    numbers = fingerprints(proof.first, proof.newest.generations)
    space, declared = proof.first.label_space.space, "image" in proof.first.identity
    groups, confidence = proof.plans[0].group_fields, PixelConfidence.of(proof.first.identity)

    def read(version: _Version) -> Answer:
        fingerprint = numbers[proof.origin(version.part.first)]
        entries = {version.part.name: version.entry}
        regions = proof.first.regions
        return read_again(version.part, Expected((fingerprint,), space, groups, declared, regions, entries, confidence))

    versions = _versions(proof)
    reading = read_ahead(read, versions, threads_for([version.part for version in versions]))
    planned = (shard for plan in proof.plans for shard in shards_of(plan))
    counted, reasons = Counter[str](), Counter[str]()
    for first, last, num_versions in ranges([version.part for version in versions], proof.num_shards):
        here = [(version, answer.result()) for version, answer in islice(reading, num_versions)]
        for version, answer in here:
            proof.found.add(answer.problems)
            if version.until == proof.newest.generation:
                counted[answer.part.kind] += answer.rows
                reasons.update(row["error"] for row in answer.rejects or () if answer.part.kind == "rejects")
        shards = list(islice(planned, last + 1 - first))
        proof.found.add(_at_each_generation(proof, first, shards, here))
    return counted, reasons


def _at_each_generation(
    proof: _Proof, first: int, shards: list[pa.Array], here: list[tuple[_Version, Answer]]
) -> Iterator[str]:
    """Yield images of some neighbouring shards that are not answered exactly once in each generation that has them."""
    planned = pa.chunked_array(shards, pa.string())
    gone = [pair for shard in range(first, first + len(shards)) for pair in proof.withdrawn.get(shard, [])]
    theirs = set(
        planned.filter(pc.is_in(planned, pa.array([image_id for image_id, _ in gone], pa.string()))).to_pylist()
    )
    for image_id, number in gone:
        if image_id not in theirs:
            yield f"generations/{number:05d}: changes.parquet withdraws '{image_id}' from a shard that has no such image"
    before = None
    for number in range(proof.origin(first), proof.newest.generation + 1):
        withdrawn = pa.array([image_id for image_id, when in gone if when <= number], pa.string())
        answers = [answer for version, answer in here if version.since <= number <= version.until]
        if (now := (len(withdrawn), [answer.part.name for answer in answers])) == before:
            continue
        before = now
        images = planned.filter(pc.invert(pc.is_in(planned, withdrawn))).chunks
        name = f"generation {number}, {answers[0].part.name}" if answers else f"generation {number}"
        yield from disagreements(answers)
        yield from region_faults(answers)
        yield from unanswered(images, answers, where=name)


def _versions(proof: _Proof) -> list[_Version]:
    """Return all parts of all generations, at their present places, in the order of their shards."""
    found: dict[str, _Version] = {}
    for state in proof.states:
        for part in parts_in(proof.uri, proof.first, state):
            version = found.setdefault(part.name, _Version(part, state.parts[part.name], state.generation, 0))
            version.until = state.generation
    for name, version in found.items():
        if version.until < proof.newest.generation:
            version.part = replace(version.part, file=withdrawn_name(version.until + 1, name))
    return sorted(found.values(), key=lambda one: (one.part.first, one.part.kind, one.since))
