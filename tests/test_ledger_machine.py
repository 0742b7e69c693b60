"""The commit protocol under every interleaving that hypothesis thinks of: several writers that die, freeze, are overtaken, lose
replies, do tasks twice and disagree about which images can be read; rejects are retried, and the run is compacted."""

import uuid
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline import storage
from pipeline.run import Lease, Run, compact, lease, verify
from pipeline.run.parts import parts_of, read_table
from tests.test_run import ITEMS, open_run, tables
from tests.writers import Writer, take_turns

IDS = [item.image_id for item in ITEMS]
WRITERS = 3
FOREVER = lease.EXPIRES_S + lease.SKEW_S + 1  # for a lease
DIES = st.sampled_from([True, False, False, False])


class Ledger(RuleBasedStateMachine):
    """`writers` are the processes that live; one that is not stepped is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.uri = f"memory://{uuid.uuid4().hex}/run"
        self.clock, self.number = 1e9, 0
        self.writers: dict[str, Writer] = {}
        self.held: dict[str, Lease] = {}
        self.copies: list[str] = []
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(lease, "time", SimpleNamespace(time=lambda: self.clock))
        self.patch.setattr(lease, "RENEW_S", 1e6)
        take_turns(self.patch)

    def segment(self, name, rejected, doubled):
        """What `maskmill segment` does to the ledger (pipeline/segment.py); some shards are worked on twice."""
        with Lease(self.uri) as held:
            self.held[name] = held
            run = open_run(self.uri)
            if pending := run.pending():
                run.reopen(held)
                for shard in pending:
                    items = run.shard_items(shard)
                    run.begin(shard)
                    run.commit(shard, *tables(items, rejected))
                    if shard in doubled:
                        run.begin(shard)
                        run.commit(shard, *tables(items))
            (None if pending else run.finished()) or run.finish(1, held)

    def retry(self, name):
        with Lease(self.uri) as held:
            self.held[name] = held
            Run.open(self.uri).withdraw_rejects(held)

    def start(self, kind, command):
        self.number += 1
        name = f"{kind}-{self.number}"
        self.writers[name] = Writer(name, lambda: command(name))

    @precondition(lambda self: len(self.writers) < WRITERS and not self.retries())
    @rule(rejected=st.sets(st.sampled_from(IDS), max_size=3), doubled=st.sets(st.integers(0, 2), max_size=1))
    def start_segment(self, rejected, doubled):
        self.start("segment", lambda name: self.segment(name, rejected, doubled))

    @precondition(lambda self: not self.writers and parts_of(self.uri, "rejects"))
    @rule()
    def start_retry_rejects(self):
        self.start("retry", self.retry)

    @precondition(lambda self: len(self.writers) < WRITERS and storage.exists(f"{self.uri}/_SUCCESS.json"))
    @rule()
    def start_compaction(self):
        out = f"{self.uri}-compact-{self.number}"

        def command(name):
            compact(self.uri, out, part_bytes=40_000)
            self.copies.append(out)

        self.start("compact", command)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), steps=st.sampled_from([1, 5, 13, 20, 30, *[1000] * 5]), repeats=st.booleans(), dies=DIES)
    def work(self, data, steps, repeats, dies):
        """One of them does some steps on the store, or all that it has to, and perhaps dies then; the others are frozen."""
        name = data.draw(st.sampled_from(sorted(self.writers)))
        writer = self.writers[name]
        for _ in range(steps):
            writer.step(repeats)
            if steps < 100:
                self.nothing_is_doubled_or_partial()
            if writer.outcome:
                return self.ended(name)
        if dies:
            writer.kill()
            self.ended(name)
            self.clock += FOREVER
        return None

    @precondition(lambda self: 0 < len(self.writers) < WRITERS and not self.retries())
    @rule(rejected=st.sets(st.sampled_from(IDS), max_size=3))
    def overtake(self, rejected):
        """Everybody who lives is frozen for longer than a lease lasts, and another writer comes."""
        self.clock += FOREVER
        self.start("segment", lambda name: self.segment(name, rejected, ()))

    def ended(self, name):
        writer = self.writers.pop(name)
        kind, error = writer.outcome
        self.held.pop(name, None)
        assert kind != "failed", error
        if kind == "refused":
            known = ("is writing it", "has taken it over", "is not finished", "it was changed", "shards are not done",
                     "no run.json there")  # fmt: skip
            assert any(words in str(error) for words in known), error
        if kind == "done" and name.startswith("segment"):
            assert not Run.open(self.uri).pending()

    def retries(self):
        return [name for name in self.writers if name.startswith("retry")]

    def visible(self, uri):
        """Image ids as whoever reads all the parts that are there finds them."""
        parts = [part for kind in ("masks", "rejects") for part in parts_of(uri, kind)]
        return sorted(i for part in parts for i in read_table(storage.read(part.uri))["image_id"].to_pylist())

    @invariant()
    def nothing_is_doubled_or_partial(self):
        seen = self.visible(self.uri)
        assert len(seen) == len(set(seen))
        if storage.exists(f"{self.uri}/_SUCCESS.json") and not self.retries():
            assert seen == IDS
        for copy in self.copies:
            assert self.visible(copy) == IDS

    @invariant()
    def one_writer_holds_the_run(self):
        assert sum(not held.lost() for held in self.held.values()) <= 1

    def teardown(self):
        for name in sorted(self.writers):
            self.writers[name].kill()
            self.ended(name)
        self.clock += FOREVER
        last = Writer("last", lambda: self.segment("last", (), ()))
        while not last.outcome:
            last.step()
        assert last.outcome[0] == "done", last.outcome
        for uri in (self.uri, *self.copies):
            assert verify(uri).problems == []
            assert self.visible(uri) == IDS
        self.patch.undo()


Ledger.TestCase.settings = settings(
    max_examples=60, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestLedger = Ledger.TestCase
