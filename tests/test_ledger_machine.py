"""The commit protocol under interleavings that hypothesis generates: drivers and workers die, freeze, are overtaken, lose
replies, do tasks twice and disagree about which images can be read; parts are lost, rejects are retried, and the run is
compacted. After each step on the store, the run is compared with a model of it.

Faults planted in the ledger show what this state machine can find: tests/ledger_faults.py, not in the default tests.
"""

import json
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from pipeline.runs import Lease, Run, compact, lease, verify
from pipeline.runs.parts import Footer, footer_of, read_table
from tests import ledger_play
from tests.test_run import ITEMS
from tests.writers import Writer, take_turns

IDS = [item.image_id for item in ITEMS]
SHARDS = range(3)
WRITERS = 3
FOREVER = lease.EXPIRES_S + lease.SKEW_S + 1  # for a lease
REJECTED = st.sampled_from([IDS[:1], IDS[1:4], IDS[2:], IDS, []])
# A writer goes on until it has done a step of such a kind, or ends; whether each of its steps is done twice; whether it dies
# where it stops.
STEPS = ("create attempts/", "create masks/", "put rejects/", "delete attempts/", "delete masks/", "delete rejects/",
         "_SUCCESS.json", "create _lease/", "put attempts/", "scan")  # fmt: skip
TURN = st.tuples(st.sampled_from([*STEPS, *["create masks/"] * 3, *["the end"] * 7]), st.booleans(), st.booleans())
RETRY_STEPS = ("put attempts/", "delete masks/", "delete rejects/", "scan", *["the end"] * 4)
RETRY = st.tuples(st.sampled_from(RETRY_STEPS), st.booleans(), st.just(False))
REFUSALS = ("is writing it", "has taken it over", "is not finished", "it was changed", "shards are not done",
            "no run.json")  # fmt: skip


@lru_cache(maxsize=4096)
def content_of(data: bytes) -> tuple[tuple[str, ...], Footer]:
    """Image ids and footer of a part; raises for a torn one."""
    return tuple(read_table(data)["image_id"].to_pylist()), footer_of(data, "a part")


def rejected_by(data: bytes) -> list[str]:
    return [row["image_id"] for row in content_of(data)[1].rejects]


class Ledger(RuleBasedStateMachine, ledger_play.Watcher):
    """`writers` are the processes that live; one that is not stepped is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.uri, self.clock, self.number, self.steps = f"{self.folder.name}/run", 1e9, 0, 0
        self.writers: dict[str, Writer] = {}
        self.held: dict[str, Lease] = {}
        self.copies: list[str] = []
        # The model.
        self.first: dict[int, bytes] = {}  # of each answered shard its first answer
        self.handed_out: set[int] = set()  # shards that workers have been told to answer
        self.lost: set[int] = set()  # shards whose answers were removed by hand, and not made again
        self.proved: set[tuple] = set()  # states that were verified
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(lease, "time", SimpleNamespace(time=lambda: self.clock))
        self.patch.setattr(lease, "RENEW_S", 1e6)
        self.patch.setattr("os.fsync", lambda file: None)  # nobody cuts the power here
        take_turns(self.patch)

    # The processes.

    def start(self, kind, command, turn):
        self.number += 1
        self.writers[f"{kind}-{self.number}"] = Writer(f"{kind}-{self.number}", command)
        self.go_on(f"{kind}-{self.number}", *turn)

    def go_on(self, name, until, repeats, dies):
        """One of them does some steps on the store, or all that it has to, and perhaps dies then; the others are frozen."""
        writer = self.writers[name]
        while not writer.outcome:
            self.advance(name, repeats)
            if until in writer.did:
                break
        if not writer.outcome and dies:
            writer.kill()
        if writer.outcome:
            self.ended(name)

    @precondition(lambda self: len(self.writers) < WRITERS and not self.retries())
    @rule(turn=TURN, rejected=REJECTED, twice=st.sets(st.sampled_from(SHARDS), max_size=1), overtakes=st.booleans())
    def start_segment(self, turn, rejected, twice, overtakes):
        """Overtakes: everybody who lives was frozen for longer than a lease lasts."""
        self.clock += FOREVER * overtakes
        answer = ledger_play.rejecting(rejected, self.number)
        self.start("segment", lambda: ledger_play.segment(self.uri, answer, twice, self), turn)

    @precondition(lambda self: len(self.writers) < WRITERS and self.handed_out and not self.retries())
    @rule(turn=TURN, data=st.data(), rejected=REJECTED)
    def start_worker(self, turn, data, rejected):
        """Beside its driver, or after its driver's death."""
        shard = data.draw(st.sampled_from(sorted(self.handed_out)))
        answer = ledger_play.rejecting(rejected, self.number)
        self.start("worker", lambda: ledger_play.work(Run.open(self.uri), shard, answer, self), turn)

    @precondition(lambda self: self.first)
    @rule(turn=RETRY)
    def start_retry_rejects(self, turn):
        self.stop_all()
        self.start("retry", lambda: ledger_play.withdraw_rejects(self.uri, self), turn)

    @precondition(lambda self: len(self.writers) < WRITERS and len(self.copies) < 2 and self.is_finished())
    @rule(turn=TURN)
    def start_compaction(self, turn):
        out = f"{self.uri}-compact-{self.number}"

        def command():
            compact(self.uri, out, part_bytes=40_000)
            self.copies.append(out)

        self.start("compact", command, turn)

    @precondition(lambda self: self.first)
    @rule(data=st.data())
    def lose_a_part(self, data):
        """By hand: as messages advise for a part that cannot be read."""
        shard = data.draw(st.sampled_from(sorted(self.first)))
        self.stop_all()
        (Path(self.uri) / "masks" / f"part-{shard:05d}.parquet").unlink()
        del self.first[shard]
        self.lost.add(shard)

    def stop_all(self):
        """What is done to a run that nobody else may write: its others die before."""
        for name in sorted(self.writers):
            self.writers[name].kill()
            self.ended(name)
        self.handed_out.clear()
        self.clock += FOREVER

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), turn=TURN)
    def work(self, data, turn):
        self.go_on(data.draw(st.sampled_from(sorted(self.writers))), *turn)

    def advance(self, name, repeats=False):
        self.steps += 1
        writer = self.writers[name]
        writer.did = ""
        writer.step(repeats)
        if writer.did.startswith(("put", "create", "delete")):
            self.compare(name)

    def ended(self, name):
        kind, error = self.writers.pop(name).outcome
        self.held.pop(name, None)
        if kind == "failed":
            raise error
        assert kind != "refused" or any(words in str(error) for words in REFUSALS), error
        if kind == "done" and name.startswith("segment"):
            assert self.first.keys() == set(SHARDS)
        if kind == "done" and name.startswith("retry"):
            assert not any(rejected_by(data) for data in self.first.values()), "a reject is not tried again"

    # What they tell.

    def holds(self, lease):
        self.held[threading.current_thread().name] = lease

    def hands_out(self, shards):
        self.handed_out |= set(shards)

    def began(self, run, shard, first):
        assert first != threading.current_thread().found, f"shard {shard}: an earlier attempt, and `begin` says {first}"

    def committed(self, run, shard):
        data = self.parts(self.uri, "masks")[shard]
        assert self.ids(self.parts(self.uri, "rejects"), shard) == rejected_by(data), "commit left rejects unsaid"

    # The comparison.

    def compare(self, name):
        """After a step of one writer."""
        masks, rejects = self.parts(self.uri, "masks"), self.parts(self.uri, "rejects")
        for shard in self.first.keys() - masks.keys():
            assert name.startswith("retry"), f"{name} removed the answer of shard {shard}"
            assert rejected_by(self.first.pop(shard)), f"{name} removed an answer without rejects"
        for shard, data in masks.items():
            if shard not in self.first:
                assert not self.is_finished(), f"{name} answered shard {shard} of a run that says that it is finished"
                self.first[shard] = data
                self.lost.discard(shard)
            assert data == self.first[shard], f"{name} changed the answer of shard {shard}"
        assert self.seen_once(masks, rejects), "an image is answered twice"
        for shard in masks.keys() & rejects.keys():
            assert self.ids(rejects, shard) == rejected_by(masks[shard])
        if masks:
            assert Run.open(self.uri).pending() == sorted(set(SHARDS) - self.first.keys())
        if self.is_finished() and not self.lost:
            self.prove(masks, rejects)
        assert sum(not held.lost() for held in list(self.held.values())) <= 1, "two hold the run"

    def prove(self, masks, rejects):
        """A finished run is whole: each state once."""
        success = (Path(self.uri) / "_SUCCESS.json").read_bytes()
        if (state := (success, *masks.values(), *rejects.values())) not in self.proved:
            self.proved.add(state)
            said = {shard: rejected_by(data) for shard, data in masks.items()}
            assert {s: self.ids(rejects, s) for s in rejects} == {s: ids for s, ids in said.items() if ids}
            assert json.loads(success)["rejects"] == sum(map(len, said.values()))
            assert verify(self.uri).problems == []

    def parts(self, uri, kind):
        """First shard -> bytes, as a reader finds them who knows nothing but the names."""
        return {int(path.name[5:10]): path.read_bytes() for path in sorted((Path(uri) / kind).glob("part-*.parquet"))}

    def ids(self, parts, shard):
        return list(content_of(parts[shard])[0]) if shard in parts else []

    def seen_once(self, *kinds):
        seen = [image_id for parts in kinds for shard in parts for image_id in self.ids(parts, shard)]
        return len(seen) == len(set(seen))

    def is_finished(self):
        return (Path(self.uri) / "_SUCCESS.json").exists()

    def retries(self):
        return [name for name in self.writers if name.startswith("retry")]

    def teardown(self):
        try:
            self.stop_all()
            self.writers["segment-last"] = last = Writer(
                "segment-last", lambda: ledger_play.segment(self.uri, ledger_play.rejecting((), -1), (), self)
            )
            while not last.outcome:
                self.advance("segment-last")
            assert last.outcome[0] == "done", last.outcome
            for uri in (self.uri, *self.copies):
                assert verify(uri).problems == []
        finally:
            for writer in self.writers.values():
                writer.kill()
            self.patch.undo()
            self.folder.cleanup()


FULL = settings(
    max_examples=100, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True,
    database=None, phases=[Phase.generate], report_multiple_bugs=False,  # an example is short enough to read as it is
)  # fmt: skip
Ledger.TestCase.settings = FULL
TestLedger = pytest.mark.slow(Ledger.TestCase)
