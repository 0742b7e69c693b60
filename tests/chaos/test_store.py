"""Faults 9-16 and 24: the store misbehaves, dies, forgets its guests, or holds other images than those of the plan."""

import random
import re
import time

import pytest

from pipeline import storage
from tests.chaos.world import IMAGES, IMAGES_PER_SHARD, prove, wait_for
from tests.faulty_store import answers, before, hangs, loses_the_reply, resets, truncates

pytestmark = pytest.mark.chaos
IMAGE = re.compile(r"chaos/corpus/leftImg8bit/.*png$")
FAULTS = {
    "503": (9, answers(503, "SlowDown"), ("GET", "HEAD", "PUT", "DELETE")),
    "500": (10, answers(500, "InternalError"), ("GET", "HEAD", "PUT", "DELETE")),
    "reset": (11, resets, ("GET", "HEAD", "PUT", "DELETE")),
    "truncated, then a reset": (13, truncates(0.5, honest=False), ("GET",)),
    "truncated, and its header says so": (13, truncates(0.5, honest=True), ("GET",)),
    "reply lost": (14, loses_the_reply, ("PUT",)),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.scorecard("fault", FAULTS[kind][0])) for kind in FAULTS]
)
def test_a_run_outlives_what_a_store_does_in_passing(drivers, world, unbroken, kind, seed):
    """A quarter of the requests for images and to the run, half of those of one method; what no error tells, once an object."""
    _, fault, methods = FAULTS[kind]
    chance, output = random.Random(seed), world.new_output()
    run = output.removeprefix("s3://")
    honest = kind.endswith("says so")
    share = 0.25 if len(methods) > 1 else 0.5

    def where(asked):
        ours = IMAGE.search(asked.key) or (asked.key.startswith(run) and not honest)
        return bool(ours) and asked.method in methods and chance.random() < share and (asked.first or not honest)

    with world.proxy.fault(fault, where) as struck:
        answer = drivers.get().run(world.config(output, actors=1))
    assert len(struck) >= 3
    assert answer.get("rows") == answer.get("answered_now") == IMAGES, answer
    prove(world, output, unbroken)


@pytest.mark.scorecard("fault", 12)
def test_a_run_outlives_requests_that_hang(drivers, world, unbroken, seeds):
    """One image a seed, of the shards that are read first, so that the client waits for all at once."""
    output = world.new_output()
    names = [unbroken[k]["image_id"] for k in random.Random(0).sample(range(2 * IMAGES_PER_SHARD), len(seeds))]

    def where(asked):
        return asked.first and asked.method == "GET" and any(f"{name}_left" in asked.key for name in names)

    with world.proxy.fault(hangs(600), where) as struck:
        answer = drivers.get().run(world.config(output))
    assert len(struck) == len(seeds)
    assert answer.get("rows") == answer.get("answered_now") == IMAGES, answer
    prove(world, output, unbroken)


@pytest.mark.scorecard("fault", 15)
def test_a_run_outlives_a_store_that_is_killed_and_started_again(drivers, world, unbroken, seeds):
    output, driver = world.new_output(), drivers.get()
    driver.begin(world.config(output))
    for seed in seeds:
        wait_for(lambda seed=seed: world.parts(output) > 2 * seed or not driver.busy())
        time.sleep(random.Random(seed).random() * 0.3)
        world.server.stop(kill=True)
        world.server.start()
        world.server.wait_ready()
    answer = driver.end()
    assert answer.get("rows") == answer.get("answered_now") == IMAGES, answer
    prove(world, output, unbroken)


@pytest.mark.scorecard("fault", 16)
def test_expired_credentials_end_the_run_with_a_sentence_and_reject_nothing(drivers, world, unbroken, seeds):
    output, refuse = world.new_output(), answers(403, "ExpiredToken")
    for seed in seeds:
        left = [random.Random(seed).randint(3, 8)]  # images that may still be read

        def where(asked, left=left):
            left[0] -= bool(IMAGE.search(asked.key)) and asked.method == "GET"
            return left[0] < 0

        done = world.parts(output)
        with world.proxy.fault(refuse, where):
            answer = drivers.get().run(world.config(output))
        drivers.end()  # its lease could not be given back, and is good while it lives
        assert "refuses the credentials (ExpiredToken)" in str(answer.get("error")), answer
        assert "run the same command again" in str(answer["error"])
        assert world.parts(output) >= done and world.rejects(output) == {}
    answer = drivers.get().run(world.config(output))
    assert answer.get("rows") == IMAGES, answer
    prove(world, output, unbroken)


CHANGES = {
    "longer": (lambda data: data + bytes(9), "source_changed"),
    "of the same length": (lambda data: data[:-9] + bytes(9), "source_changed"),
    "gone": (None, "not_found"),
}


@pytest.mark.scorecard("fault", 24)
def test_images_that_changed_after_the_plan_are_rejected_and_their_neighbours_unharmed(drivers, world, unbroken):
    output = world.new_output()
    victims = dict(zip(CHANGES, (unbroken[-k] for k in (1, 3, 4)), strict=True))
    kept = {kind: storage.read(row["uri"]) for kind, row in victims.items()}

    def change(asked):
        for kind, row in victims.items():
            edit, _ = CHANGES[kind]
            storage.delete(row["uri"]) if edit is None else storage.put(row["uri"], edit(kept[kind]))

    try:
        with world.proxy.fault(before(change), lambda asked: asked.method == "GET" and bool(IMAGE.search(asked.key))):
            answer = drivers.get().run(world.config(output, max_reject_rate=1))
    finally:
        for kind, row in victims.items():
            storage.put(row["uri"], kept[kind])
    expected = {row["image_id"]: CHANGES[kind][1] for kind, row in victims.items()}
    assert world.rejects(output) == expected, answer
    assert world.rows(output) == [row for row in unbroken if row["image_id"] not in expected]
