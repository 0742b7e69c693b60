"""Images a second against actors and nodes, where an image's forward takes a fixed time: what the cluster itself costs.

python -m tests.bench.nodes [nodes] [images]    four minutes on 2 cores; with images for each actor, only one node and the most
python -m tests.bench.nodes driver [nodes]      the driver's processor time a shard at 1, 4 and 16 nodes, an actor each
python -m tests.bench.nodes driver 1 [actors]   the same on one node, at 1, 4, 16, ... actors

A forward that sleeps stands for a device, so that four nodes fit on one machine; reading, decoding, encoding and committing
are real. Each point is a process of its own that starts so many Ray nodes, the actors spread over them.

To measure the driver alone, actors only sleep and return what real ones return, so that sixteen of them fit on two cores; the
code that distributes shards, waits for them and counts them is the product's. The driver also takes time for each second that
it waits, so its time is given per shard and per second.
"""

import json
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

from pipeline import labels, models
from pipeline.config import SegmentConfig, parse_model
from pipeline.corpus import plan_shards
from pipeline.models import checkpoint
from pipeline.runs import Run
from pipeline.segment.driver import segment
from pipeline.segment.progress import Progress
from pipeline.synthetic.scenes import write_corpus
from tests.bench import scaling
from tests.bench.rows import Limit, record
from tests.bench.sleeper import SERVICE_S, Sleeper
from tests.bench.turns import show

IMAGES, SHARD = 96, 8  # IMAGES for each actor
NETWORK = parse_model({"name": "lraspp"}, where="bench")
POINTS = ((1, 1), (1, 2), (2, 2), (4, 4))  # nodes, actors
NODES, SHARDS = (1, 4, 16), 40  # of `driver`; SHARDS for each actor, each of SERVICE_S


def served(model: models.Network, x: torch.Tensor) -> torch.Tensor:
    """Coarse logits of a network whose time is fixed."""
    time.sleep(SERVICE_S * len(x))
    return torch.zeros(len(x), 19, -(-x.shape[-2] // 8), -(-x.shape[-1] // 8))


def serve() -> None:
    """Run in every worker as it starts."""
    type(models.build(NETWORK, 19)).coarse = served  # type: ignore[method-assign]


def measure(nodes: int, actors: int, images: int, shard: int) -> None:
    """One point, in this process: prints images/s after start-up, and the driver's processor ms a shard from the first on.

    Args:
        images: for each actor.
        shard: images of each.
    """
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": actors // nodes})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, runtime_env={"worker_process_setup_hook": serve})
    space = labels.space("cityscapes19")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(f"{folder}/model", models.build(NETWORK, 19), NETWORK, space, {})
        archive, truths = write_corpus(folder, {"val": images * actors}, 64, 128, seed=1)
        cfg = SegmentConfig.model_validate({
            "corpus": {"images": archive, "labels": truths, "layout": "cityscapes"}, "checkpoint": f"{folder}/model",
            "output": f"{folder}/run", "max_reject_rate": 0, "actors": actors, "cpus_per_actor": 1,
            "images_per_shard": shard,
        })  # fmt: skip
        seen = list[tuple[int, float]]()
        done = segment(cfg, lambda progress: seen.append((progress.done, time.process_time())))
    ray.shutdown()
    cluster.shutdown()
    (first, began), (last, ended) = next(one for one in seen if one[0]), seen[-1]
    print(json.dumps([done.images_per_s, 1000 * (ended - began) * shard / (last - first)]))


def point(nodes: int, actors: int, images: int, shard: int) -> list[float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.nodes", "point", *map(str, (nodes, actors, images, shard))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_driver(nodes: int, actors: int) -> None:
    """One point, in this process: prints the driver's processor ms a shard and a second, from the first summary to the last."""
    import ray
    from ray.cluster_utils import Cluster

    from pipeline.segment import on_ray
    from pipeline.segment.driver import answered_by

    # Sixteen nodes on one machine: small stores, time to start, no workers that nobody asked for, and those not set back.
    small = {"num_cpus": actors // nodes, "object_store_memory": 80_000_000, "include_dashboard": False}
    patient = {
        "enable_worker_prestart": False, "prestart_worker_first_driver": False, "worker_register_timeout_seconds": 600,
        "worker_niceness": 0, "health_check_failure_threshold": 100, "agent_register_timeout_ms": 600_000,
    }  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args=small | {"_system_config": patient})
    for _ in range(nodes - 1):
        cluster.add_node(wait=False, **small)
        cluster.wait_for_nodes(timeout=600)
    ray.init(address=cluster.address, log_to_driver=False)
    on_ray.Actor = Sleeper  # type: ignore[misc, assignment]
    with tempfile.TemporaryDirectory() as folder:
        cfg = scaling.config(folder).model_copy(update={"actors": actors})
        items, space = scaling.items(SHARDS * actors), scaling.SPACE
        run = Run.open_or_create(cfg.output, {}, cfg.model_dump(mode="json"), space, lambda: plan_shards(items, 1))
        progress, seen = Progress(run.num_images, 0), list[tuple[int, float, float]]()
        answered_by(
            on_ray.OnRay(cfg, run, progress), run, run.pending(), progress,
            lambda progress: seen.append((progress.done, time.process_time(), time.perf_counter())),
        )  # fmt: skip
    ray.shutdown()
    cluster.shutdown()
    # All actors are up at the end of the first tenth.
    (first, worked, began), (last, done, ended) = next(one for one in seen if one[0] > SHARDS * actors // 10), seen[-1]
    print(
        json.dumps(
            [
                1000 * (done - worked) / (last - first),
                1000 * (done - worked) / (ended - began),
                (last - first) / (ended - began),
            ]
        )
    )


def driver(largest: int, most_actors: int | None) -> None:
    points = [(nodes, nodes) for nodes in NODES if nodes <= largest]
    if most_actors is not None:
        points = [(largest, 4**power) for power in range(4) if largest <= 4**power <= most_actors]
    rows = []
    for nodes, actors in points:
        command = [sys.executable, "-m", "tests.bench.nodes", "driver-point", str(nodes), str(actors)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        shard_ms, second_ms, shards_per_s = json.loads(done.stdout.splitlines()[-1])
        rows.append([nodes, actors, SHARDS * actors, f"{shards_per_s:.1f}", f"{shard_ms:.2f}", f"{second_ms:.0f}"])
        print(rows[-1], file=sys.stderr, flush=True)
    header = ["nodes", "actors", "shards", "shards/s", "driver's cpu ms a shard", "a second"]
    show(f"the driver beside actors that sleep {SERVICE_S} s a shard", header, rows)


def main(largest: int, images_each: int) -> None:
    rates: dict[tuple[int, int], float] = {}
    for nodes, actors in POINTS:
        if nodes <= largest and (images_each == IMAGES or nodes == actors in (1, largest)):
            rates[nodes, actors] = point(nodes, actors, images_each, SHARD)[0]
    ideal = 1 / SERVICE_S
    rows = [
        [nodes, actors, f"{rate:.2f}", f"{rate / (actors * ideal):.2f}", f"{rate / (actors * rates[1, 1]):.2f}"]
        for (nodes, actors), rate in rates.items()
    ]
    (nodes, actors), rate = list(rates.items())[-1]
    record(
        f"segment on {nodes} nodes, a forward of {SERVICE_S} s", "images/s", [rate],
        {f"one node, times {actors}": [actors * rates[1, 1]]},
        Limit("ideal", actors, f"{actors} actors that do nothing but wait for their device", peak=actors * ideal),
        more_is_better=True, seconds=actors / rate,
    )  # fmt: skip
    across = [(actors, rate) for (nodes, actors), rate in rates.items() if nodes == actors]
    slope = np.polyfit(*np.log(across).T, 1)[0] if len(across) > 1 else float("nan")
    show(
        f"{images_each} images an actor, of {SERVICE_S} s, {SHARD} a shard: images/s grow as nodes to the power of {slope:.2f}",
        ["nodes", "actors", "images/s", "of the ideal", "of one actor's, times actors"], rows,
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["point"]:
        measure(*map(int, sys.argv[2:]))
    elif sys.argv[1:2] == ["driver-point"]:
        measure_driver(*map(int, sys.argv[2:]))
    elif sys.argv[1:2] == ["driver"]:
        wanted = [int(value) for value in sys.argv[2:]]
        driver(wanted[0] if wanted else max(NODES), wanted[1] if len(wanted) > 1 else None)
    else:
        given = [int(value) for value in sys.argv[1:]]
        main(*given, *(4, IMAGES)[len(given) :])
