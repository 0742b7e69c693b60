"""Actors of a run on a real Ray: they are bound to the run's model, and errors of the code inside them are reported."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipeline import labels, models
from pipeline.config import SegmentConfig, parse
from pipeline.corpus import Item, Place, list_items, plan_shards
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.runs import REJECT_SCHEMA, SECONDS, Run, verify
from pipeline.segment import failures
from pipeline.segment.actor import Segmenter, bound_to, decode
from pipeline.segment.crash_isolation import isolate_errors
from pipeline.segment.driver import identity, segment
from pipeline.segment.packed import unpack
from pipeline.synthetic.scenes import write_corpus
from tests.chaos.nodes import children, title

IMAGES = 12
SCHEMA = pa.schema([pa.field("image_id", pa.string())])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("corpus"))
    write_corpus(folder, {"val": IMAGES}, 32, 64, seed=1, packed=False)
    return folder


@pytest.fixture
def best(tiny_checkpoint, tmp_path):
    """A copy of the checkpoint, where a training may put another."""
    shutil.copytree(tiny_checkpoint, tmp_path / "best")
    return tmp_path / "best"


def values(corpus, best, output, **changes):
    return {
        "corpus": {"images": corpus, "labels": corpus, "layout": "cityscapes"}, "checkpoint": str(best),
        "output": str(output), "predict": {"scales": [1.0] * 4}, "images_per_shard": 1, "max_reject_rate": 1, "actors": 1,
        "cpus_per_actor": 1,
    } | changes  # fmt: skip


def config(*arguments, **changes):
    return parse(SegmentConfig, values(*arguments, **changes), where="test")


def save_another(uri):
    """What a training does to its best checkpoint; the sha256 of the new weights."""
    cfg = checkpoint.load(uri).model_config
    torch.manual_seed(1)
    checkpoint.save(uri, models.build(cfg, 19), cfg, labels.space("cityscapes19"), {"epoch": 9, "miou": 0.5})
    return checkpoint.load(uri).sha256


def rows(output):
    """image id -> its row without measured seconds."""
    found = [row for part in sorted(Path(output).glob("masks/*.parquet")) for row in pq.read_table(part).to_pylist()]
    return {row["image_id"]: {k: v for k, v in row.items() if k not in SECONDS} for row in found}


@pytest.fixture(scope="module")
def unbroken(ray_session, corpus, tiny_checkpoint, tmp_path_factory):
    cfg = config(corpus, tiny_checkpoint, tmp_path_factory.mktemp("unbroken") / "run")
    segment(cfg)
    return rows(cfg.output)


@pytest.mark.slow
@pytest.mark.scorecard("fault", 28)
@pytest.mark.parametrize("who", ["actor", "child"])
def test_a_checkpoint_replaced_in_mid_run_ends_it_and_the_first_one_finishes_it(
    unbroken, corpus, best, tiny_checkpoint, tmp_path, who
):
    """An actor that is killed and comes again loads the checkpoint anew, and so does the child that answers a deadly shard."""
    cfg, first, others = config(corpus, best, tmp_path / "run"), checkpoint.load(tiny_checkpoint).sha256, []

    def replace(progress):  # the checkpoint, once the run has answers
        if progress.answered_now and not others:
            others.append(save_another(str(best)))
            if who == "child":
                Path(cfg.output, "attempts", f"shard-{IMAGES - 1:05d}").write_text("of a dead worker")
            else:
                (actor,) = (pid for pid in children(os.getpid()) if "MapWorker" in title(pid))
                os.kill(actor, signal.SIGKILL)

    with pytest.raises(UserError) as ended:
        segment(cfg, replace)
    (other,) = others
    assert first != other and f"sha256 {first}, and the checkpoint at {best} now has {other}" in str(ended.value)
    assert "put the first one back and run the same command again, or start another run" in str(ended.value)
    before = rows(cfg.output)
    assert 0 < len(before) < IMAGES
    assert before == {image_id: unbroken[image_id] for image_id in before}
    with pytest.raises(UserError, match=f'weights_sha256: "{first}", now "{other}"'):
        segment(cfg)
    shutil.rmtree(best)
    shutil.copytree(tiny_checkpoint, best)
    assert segment(cfg).answered_now == IMAGES - len(before)
    assert rows(cfg.output) == unbroken
    assert verify(cfg.output).problems == []


def begun(cfg):
    """The run of a config, with nothing answered."""
    ready = checkpoint.load(cfg.checkpoint)
    plan = lambda: plan_shards(list_items(cfg.corpus, None), cfg.images_per_shard)  # noqa: E731
    return Run.open_or_create(
        cfg.output, identity(cfg, ready), cfg.model_dump(mode="json"), ready.label_space, make_plan=plan
    )


@pytest.mark.slow
@pytest.mark.scorecard("fault", 28)
def test_rejects_are_not_withdrawn_for_a_model_that_is_not_the_runs(unbroken, corpus, best, tmp_path):
    """Their shards' masks would be gone until the first checkpoint is put back."""
    images = tmp_path / "images"
    shutil.copytree(corpus, images)
    next(images.glob("leftImg8bit/**/*.png")).write_bytes(b"")
    cfg = config(str(images), best, tmp_path / "run", images_per_shard=4)
    assert segment(cfg).rejects == {"empty": 1}
    before, other = rows(cfg.output), save_another(str(best))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("maskmill")), "retry-rejects", cfg.output],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1 and f"now has {other}" in done.stderr, done.stderr
    assert rows(cfg.output) == before and verify(cfg.output).problems == []


@pytest.mark.scorecard("fault", 28)
def test_other_preprocessing_than_the_runs_is_found_too(corpus, best, tmp_path):
    cfg = config(corpus, best, tmp_path / "run")
    run = begun(cfg)
    description = json.loads((best / "checkpoint.json").read_text())
    (best / "checkpoint.json").write_text(json.dumps(description | {"mean": [0.5, 0.5, 0.5]}))
    (ended,) = Segmenter(cfg.model_dump(mode="json"), run.fingerprint, {})(shard(0))["ended"].to_pylist()
    with pytest.raises(UserError, match=r"mean: \[.*\], now \[0\.5, 0\.5, 0\.5\]"):
        failures.raise_encoded(ended)


def test_an_actor_tells_once_that_pixels_hardly_reach_the_network(corpus, best, tmp_path):
    description = json.loads((best / "checkpoint.json").read_text())
    wrong = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    (best / "checkpoint.json").write_text(json.dumps(description | wrong))
    cfg = config(corpus, best, tmp_path / "run")
    actor = Segmenter(cfg.model_dump(mode="json"), begun(cfg).fingerprint, {})
    first, second = (actor(shard(number))["warning"].to_pylist() for number in (0, 1))
    assert "mean (123.675, 116.28, 103.53)" in first[0] and "divide those of 0..255 by 255" in first[0]
    assert second == [None]


def test_a_checkpoint_of_broken_weights_is_refused(best):
    ready = checkpoint.load(str(best))
    with torch.no_grad():
        next(ready.model.parameters())[0] = float("nan")
    checkpoint.save(str(best), ready.model, ready.model_config, ready.label_space, ready.info)
    with pytest.raises(
        UserError, match=r"best: 1 of its tensors hold NaN or infinity, first .*; take an earlier checkpoint"
    ):
        checkpoint.load(str(best))


@pytest.mark.slow
def test_actors_and_decoding_tasks_work_for_the_run_of_their_driver_alone(corpus, best, tmp_path):
    cfg = config(corpus, best, tmp_path / "run", decode="tasks")
    run = begun(cfg)
    bound = {"payload": cfg.model_dump(mode="json"), "fingerprint": "of another run", "retried": {}}
    assert unpack(decode(shard(0), **bound)) is None
    actor = Segmenter(**bound)
    for number in (0, 1):
        summary = actor(decode(shard(number), **bound)).to_pylist()[0]
        with pytest.raises(
            UserError, match=rf"its fingerprint was of another run when this command began and is {run.fingerprint} now"
        ):
            failures.raise_encoded(summary["ended"])
    assert run.pending() == list(range(IMAGES))
    assert unpack(decode(shard(0), **bound | {"fingerprint": run.fingerprint})) is not None


def shard(number):
    return pa.table({"shard": [number]})


# Code that fails: planted into every process of a real `maskmill segment`.
PLANT = textwrap.dedent("""
    import importlib.util, os, sys

    class Plant:
        def find_spec(self, name, path=None, target=None):
            if name != "pipeline.segment.loading":
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                real = module.Loader._decoded

                def planted(loader, item, *data):
                    if any(part in item.image_id for part in os.environ["PLANTED"].split()):
                        return [].index("mask")
                    return real(loader, item, *data)

                module.Loader._decoded = planted

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Plant())
""")


def maskmill(folder, cfg, planted=None):
    """The finished process of `maskmill segment`; images whose id has one of the words of `planted` make the code fail."""
    (folder / "segment.yaml").write_text(yaml.safe_dump(cfg))
    environment = dict(os.environ)
    if planted is not None:
        (folder / "plant").mkdir(exist_ok=True)
        (folder / "plant" / "sitecustomize.py").write_text(PLANT)
        environment |= {"PYTHONPATH": str(folder / "plant"), "PLANTED": planted}
    command = [str(Path(sys.executable).with_name("maskmill")), "segment", str(folder / "segment.yaml")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
@pytest.mark.scorecard("fault", 30)
@pytest.mark.parametrize("where", ["actor", pytest.param("tasks", marks=pytest.mark.long)])
def test_an_image_on_which_the_code_fails_is_rejected_alone_with_the_error(unbroken, corpus, best, tmp_path, where):
    (bad, worse), output = (list(unbroken)[3], list(unbroken)[-1]), tmp_path / "run"
    # The last shard is of one image: all of it fails, and others show that the code does work.
    cfg = values(corpus, best, output, images_per_shard=IMAGES - 1, decode=where)
    done = maskmill(tmp_path, cfg, planted=f"{bad} {worse}")
    assert done.returncode == 2, done.stderr
    assert "2 worker_error" in done.stdout
    rejects = {row["image_id"]: row for row in pq.read_table(output / "rejects").to_pylist()}
    assert [(row["stage"], row["error"]) for row in rejects.values()] == [("worker", "worker_error")] * 2
    assert rejects[bad]["message"].startswith(f"{bad}: ValueError: 'mask' is not in list (")
    assert "in planted" in rejects[bad]["message"] and "retry-rejects" in rejects[bad]["message"]
    assert rows(output) == {image_id: row for image_id, row in unbroken.items() if image_id not in (bad, worse)}
    assert verify(str(output)).problems == []


@pytest.mark.slow
@pytest.mark.scorecard("fault", 30)
def test_an_error_on_every_image_ends_the_run_at_once_with_its_traceback_and_rejects_nothing(
    unbroken, corpus, best, tmp_path
):
    output = tmp_path / "run"
    done = maskmill(tmp_path, values(corpus, best, output, images_per_shard=4), planted="val")
    assert done.returncode == 1
    # Whichever actor comes first ends the run.
    told = re.search(r"shard (\d+): on image (\S+), as on all \d+ of shard \1 ", done.stderr)
    assert told and told[2] == list(unbroken)[4 * int(told[1])], done.stderr
    assert "ValueError: 'mask' is not in list" in done.stderr
    for words in ("lost the cluster", "Failed to apply", "max_errored_blocks", "worker_error"):
        assert words not in done.stderr + done.stdout
    assert rows(output) == {} and not list(output.glob("rejects/*")) and not list(output.glob("attempts/*"))
    done = maskmill(tmp_path, values(corpus, best, output, images_per_shard=4))
    assert done.returncode == 0, done.stderr
    assert rows(output) == unbroken


@pytest.mark.slow
def test_a_process_that_fails_on_all_images_blames_none_that_others_can_answer(corpus, best, tmp_path):
    """As one in which every call to the GPU fails after a first error."""
    cfg = config(corpus, best, tmp_path / "run", images_per_shard=2, predict={"scales": [1.0]})
    ready = checkpoint.load(str(best))
    run = Run.open_or_create(
        cfg.output, identity(cfg, ready), cfg.model_dump(mode="json"), ready.label_space,
        lambda: plan_shards(list_items(cfg.corpus, None), 2)
    )  # fmt: skip
    worker, calls = Segmenter(**bound_to(cfg, run)), []

    def broken(items, load=None):
        calls.append(len(items))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    worker.segmenter.answer = broken
    told = [worker(pa.table({"shard": [shard]})).to_pylist()[0] for shard in (0, 1)]
    assert [(one["images"], one["rejects"], one["ended"]) for one in told] == [(2, [], None)] * 2
    assert calls == [2, 1, 1]  # in the first shard alone


def answering(bad, error, calls):
    def answer(items):
        calls.append([item.image_id for item in items])
        if bad & set(calls[-1]):
            raise error
        return pa.table({"image_id": calls[-1]}, schema=SCHEMA), REJECT_SCHEMA.empty_table()

    return answer


@pytest.mark.parametrize("bad", [set(), {"c"}, {"a", "f"}, set("abcdefgh")])
def test_only_images_that_fail_alone_are_rejected(bad):
    items, calls = [Item(name, Place(f"/{name}.png")) for name in "abcdefgh"], []
    masks, rejects = isolate_errors(answering(bad, TypeError("oh\nno"), calls), items, SCHEMA)
    assert masks["image_id"].to_pylist() == [name for name in "abcdefgh" if name not in bad]
    assert rejects["image_id"].to_pylist() == sorted(bad)
    assert set(rejects["error"].to_pylist()) <= {"worker_error"}
    assert all(": TypeError: oh no (" in message for message in rejects["message"].to_pylist())
    assert len(calls) <= 1 + 2 * 3 * len(bad)


@pytest.mark.parametrize("error", [UserError("put it back"), KeyboardInterrupt()])
def test_what_concerns_the_whole_run_is_blamed_on_no_image(error):
    calls = []
    with pytest.raises(type(error)):
        isolate_errors(answering({"a"}, error, calls), [Item("a", Place("/a")), Item("b", Place("/b"))], SCHEMA)
    assert len(calls) == 1


def test_memory_that_ends_on_one_image_alone_keeps_its_own_reason():
    _, rejects = isolate_errors(answering({"a"}, MemoryError(), []), [Item("a", Place("/a"))], SCHEMA)
    assert rejects["error"].to_pylist() == ["out_of_memory"]
