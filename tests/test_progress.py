"""Progress between two committed shards: what actors send over Ray, and how their driver reports it."""

import time
from types import SimpleNamespace

import pytest
import ray
from ray.experimental import internal_kv

from pipeline.runs import SECONDS
from pipeline.segment import progress as listening
from pipeline.segment.local_workers import LocalWorkers
from pipeline.segment.on_ray import OnRay, sender
from pipeline.segment.progress import Progress, heard
from pipeline.segment.shard_progress import Count, CountReporter
from tests.test_segment import config


def row(shard, images):
    return {"shard": shard, "images": images, "rejects": [], "began": time.time(), **dict.fromkeys(SECONDS, 0.0)}


def test_an_actor_counts_images_and_keeps_its_last_shards_in_mind():
    reporter = CountReporter(None)  # nobody hears of it
    for shard in range(20):
        reporter.begin(shard, 1)
        reporter.answered()
        reporter.commit(shard, 1)
    reporter.begin(20, 2)
    reporter.answered()
    assert (reporter.count.shard, reporter.count.images) == (20, 1)
    for _ in range(2):  # the shard fails, and child processes answer it from the beginning
        reporter.answered()
    assert reporter.count.images == 2
    assert reporter.count.committed == tuple((shard, 1) for shard in range(4, 20))


def test_what_is_committed_is_counted_once_whether_its_summary_has_come_or_not():
    listener, progress = listening._Listener(LocalWorkers()), Progress(images=20, done=0)
    listener._counts = {"a": Count(3, 2, 1.0, ((1, 4), (2, 4))), "b": Count(4, 3, 1.0), "c": Count()}
    assert listener.count(progress)
    assert (progress.unheard, progress.unfinished) == (8, 5)
    for shard in (1, 4):  # and the actor that was at 4 does not know it yet
        listener.hear(shard, progress)
    assert (progress.unheard, progress.unfinished) == (4, 2)
    assert listener.count(progress)
    assert (progress.unheard, progress.unfinished) == (4, 2)
    for shard in (2, 3):
        listener.hear(shard, progress)
    assert (progress.unheard, progress.unfinished) == (0, 0)
    assert not listener.count(progress)


@pytest.mark.slow
def test_a_driver_hears_of_images_within_a_shard(ray_session, scenes, tiny_checkpoint, tmp_path, monkeypatch):
    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self):
            self.reporter = CountReporter(sender("within"))

        def work(self):
            self.reporter.begin(7, 4)
            for _ in range(3):
                self.reporter.answered()

    monkeypatch.setattr(listening, "POLL_S", 0.1)
    # A cluster that another test made in this process has taken the key-value store's client for itself.
    internal_kv._initialize_internal_kv(ray._private.worker.global_worker.gcs_client)
    progress, told = Progress(images=12, done=4), []
    run = SimpleNamespace(fingerprint="within")
    workers = OnRay(config(*scenes, tiny_checkpoint, tmp_path / "run"), run, progress)
    actor = Actor.remote()
    with heard(workers, progress, lambda now: told.append((now.done, now.unfinished))) as add:
        ray.get(actor.work.remote())
        deadline = time.monotonic() + 60
        while (4, 3) not in told and time.monotonic() < deadline:
            time.sleep(0.05)
        add(row(7, 4))
    assert told[-2:] == [(4, 3), (8, 0)]
    assert progress.answered_now == 4
    ray.kill(actor)
