"""Faults 2-8 and 20: processes of a run die by kill -9 at random moments, freeze, run out of memory, or are one too many."""

import io
import os
import random
import re
import resource
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from pipeline import storage
from pipeline.synthetic.scenes import write_corpus
from tests.chaos.driver import Driver
from tests.chaos.nodes import Nodes, actors, children, raylet
from tests.chaos.world import IMAGES, SHARDS, prove, wait_for
from tests.faulty_store import before, kills, owner_of

pytestmark = pytest.mark.chaos


def large_png(side):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 60)).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def moments(seeds, first=1, last=SHARDS - 3):
    """One random moment a seed, in order: so many shards committed, and so many seconds more."""
    found = [(random.Random(seed).randint(first, last), random.Random(seed).random() * 0.3) for seed in seeds]
    return sorted(found)


def await_moment(world, driver, output, moment):
    committed, more_s = moment
    wait_for(lambda: world.parts(output) >= committed or not driver.busy())
    time.sleep(more_s)


@pytest.mark.scorecard("fault", 2)
def test_actors_killed_at_random_moments(drivers, nodes, world, unbroken, seeds):
    output, driver = world.new_output(), drivers.get()
    driver.begin(world.config(output))
    for moment in moments(seeds):
        await_moment(world, driver, output, moment)
        os.kill(random.choice(wait_for(nodes.actors)), signal.SIGKILL)
    answer = driver.end()
    assert answer.get("rows") == IMAGES, answer
    prove(world, output, unbroken)
    assert world.begun_again(output) <= len(seeds)


@pytest.mark.scorecard("fault", 3)
def test_nodes_killed_at_random_moments(drivers, nodes, world, unbroken, seeds):
    output, driver = world.new_output(), drivers.get()
    driver.begin(world.config(output))
    for moment in moments(seeds):
        await_moment(world, driver, output, moment)
        node = wait_for(lambda: next((node for node in nodes.workers if actors(node)), None))
        nodes.remove(node)
        nodes.add()
    answer = driver.end()
    assert answer.get("rows") == IMAGES, answer
    prove(world, output, unbroken)
    assert world.begun_again(output) <= len(seeds)


@pytest.mark.scorecard("fault", 4)
def test_the_head_killed_the_driver_ends_with_a_sentence_and_a_new_cluster_finishes(
    drivers, world, unbroken, seed, tmp_path
):
    environment = world.environment | {"RAY_gcs_rpc_server_reconnect_timeout_s": "8"}
    other, output = Nodes(environment, num_cpus=2), world.new_output()
    driver = Driver(environment | {"RAY_ADDRESS": other.address}, tmp_path / "log").wait_ready()
    try:
        driver.begin(world.config(output, actors=1))
        await_moment(world, driver, output, moments([seed])[0])
        done = world.parts(output)
        for process in ("gcs_server", "raylet"):
            os.kill(raylet(other.head, process), signal.SIGKILL)
        answer = driver.end()
    finally:
        driver.kill()
        other.end()
    assert answer in ({"died": 1}, {"died": -signal.SIGABRT}), answer  # Ray ends it, after our words
    said = (tmp_path / "log").read_text()
    assert re.search(r"error: run s3://\S+: the head of the cluster .* run the same command again", said), said[-3000:]
    again = drivers.get().run(world.config(output))
    assert again.get("rows") == IMAGES and again["answered_now"] <= IMAGES - 2 * done, again
    prove(world, output, unbroken)
    assert world.begun_again(output) <= 1


@pytest.mark.scorecard("fault", 5)
def test_drivers_killed_at_random_moments(drivers, world, unbroken, seeds):
    output = world.new_output()
    for moment in moments(seeds):
        driver = drivers.get()
        driver.begin(world.config(output))
        await_moment(world, driver, output, moment)
        driver.kill()
    answer = drivers.get().run(world.config(output))
    assert answer.get("rows") == IMAGES, answer
    prove(world, output, unbroken)
    assert world.begun_again(output) <= 2 * len(seeds)  # two actors die with their driver


@pytest.mark.scorecard("fault", 6)
def test_an_image_that_kills_whoever_reads_it_is_rejected_alone(drivers, world, unbroken, seeds):
    """Every process that asks the store for one of these images is killed, the actor and each child."""
    output = world.new_output()
    victims = [unbroken[k]["image_id"] for k in random.Random(len(seeds)).sample(range(IMAGES), len(seeds))]
    killed = []

    def kill(port):
        killed.append(owner_of(port))
        os.kill(killed[-1], signal.SIGKILL)

    with world.proxy.fault(
        kills(kill), lambda asked: asked.method == "GET" and any(f"{v}_left" in asked.key for v in victims)
    ):
        answer = drivers.get().run(world.config(output, actors=1, max_reject_rate=1))
    assert answer.get("rejects") == {"worker_crash": len(victims)}, answer
    assert len(set(killed)) >= 3 * len(victims)  # the actor, the child with its neighbour, the child alone
    assert world.rows(output) == [row for row in unbroken if row["image_id"] not in victims]
    assert sorted(world.rejects(output)) == sorted(victims)
    assert world.begun_again(output) <= len(victims)


@pytest.mark.scorecard("fault", 7)
def test_an_image_too_large_for_the_memory_is_rejected_and_its_worker_goes_on(drivers, world, seeds):
    """The actor may take 300 MB more than it has: its decoded images fit, the network's activations do not."""
    corpus, output = storage.join(world.runs, "large"), world.new_output()
    write_corpus(corpus, {"val": 8}, 32, 64, seed=1, packed=False)
    large = [f"val/dunmere/dunmere_00000{seed + 2}_000000" for seed in seeds]
    for seed, name in enumerate(large):
        side = 3200 + random.Random(seed).randint(0, 400)
        storage.put(storage.join(corpus, f"leftImg8bit/{name}_leftImg8bit.png"), large_png(side))

    def narrow(asked):
        actor = owner_of(asked.port)
        pages = int(Path(f"/proc/{actor}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 300_000_000
        resource.prlimit(actor, resource.RLIMIT_AS, (limit, limit))

    config = world.config(output, actors=1, max_reject_rate=1, predict={"scales": [1.0]},
                          corpus={"images": corpus, "layout": "cityscapes"})  # fmt: skip
    with world.proxy.fault(before(narrow), lambda asked: any(f"{name}_left" in asked.key for name in large)):
        answer = drivers.get().run(config)
    assert answer.get("rejects") == {"out_of_memory": len(large)}, answer
    assert answer["rows"] == 8
    assert sorted(world.rejects(output)) == large
    assert world.begun_again(output) == 0


@pytest.mark.scorecard("fault", 8)
def test_a_frozen_node_is_given_up_and_harms_nothing_when_it_wakes(drivers, nodes, world, unbroken, seeds):
    output, driver = world.new_output(), drivers.get()
    frozen = []
    driver.begin(world.config(output))
    for moment in moments(seeds):
        await_moment(world, driver, output, moment)
        node = wait_for(lambda: next((n for n in nodes.workers if n not in frozen and actors(n)), None))
        pids = [raylet(node), *children(raylet(node))]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        frozen.append(node)
        nodes.add()
    answer = driver.end()
    assert answer.get("rows") == IMAGES, answer
    assert world.begun_again(output) <= len(seeds)
    for node in frozen:
        for pid in [raylet(node), *children(raylet(node))]:
            os.kill(pid, signal.SIGCONT)
    prove(world, output, unbroken)
    # What was frozen goes on: it answers its shard, and one that waited in its actor's queue, again with the same bytes.
    time.sleep(2)
    for node in frozen:
        nodes.remove(node)
    prove(world, output, unbroken)


@pytest.mark.scorecard("fault", 20)
def test_a_second_driver_is_refused_at_any_moment(drivers, nodes, world, unbroken, seeds, tmp_path):
    output = world.new_output()
    second = Driver(world.environment | {"RAY_ADDRESS": nodes.address}, tmp_path / "log").wait_ready()
    try:
        first = drivers.get()
        first.begin(world.config(output))
        wait_for(lambda: world.parts(output) >= 1)
        for seed in seeds:
            time.sleep(random.Random(seed).random() * 0.3)
            first.process.send_signal(signal.SIGSTOP)  # so that it cannot end before the second one has looked
            assert first.busy(), "the first run ended before the second driver began"
            assert "is writing it" in str(second.run(world.config(output)).get("error"))
            first.process.send_signal(signal.SIGCONT)
        answer = first.end()
        assert answer.get("rows") == answer.get("answered_now") == IMAGES, answer
        prove(world, output, unbroken)
        together = world.new_output()
        first.begin(world.config(together))
        second.begin(world.config(together))
        answers = [first.end(), second.end()]
        assert sorted(a.get("answered_now", 0) for a in answers) == [0, IMAGES], answers
        prove(world, together, unbroken)
    finally:
        second.kill()
