"""Answer shards with a pool of Ray actors: Ray Data distributes the shard numbers and returns the summaries as rows.

Counts within a shard go through the key-value store of Ray's head.
"""

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.experimental import internal_kv

from pipeline.cluster import connection
from pipeline.cluster.phases import PHASES
from pipeline.cluster.worker_env import worker_environment
from pipeline.config import SegmentConfig
from pipeline.runs import Run
from pipeline.segment.actor import Segmenter, bound_to, decode, num_tasks
from pipeline.segment.progress import Progress
from pipeline.segment.shard_progress import Count
from pipeline.segment.telemetry import SegmentationMetrics

# Most restarts of an actor: each deadly image costs one, and lost spot machines cost more. Without a limit, an actor that
# never starts would be tried for ever.
RESTARTS = 100
# A shard is retried as long as its actor may be restarted. A limit of its own would be used up in the seconds between the
# death of a node and its detection by the cluster, when every try fails.
RETRIES = -1
WAIT_S = 20.0  # seconds without an actor before the driver says what it waits for
NAMESPACE = b"maskmill"


class OnRay:
    """The actors of a run, on the cluster that `connection.connect` joins or starts.

    Args:
        progress: kept up to date by the reader of the summaries.
    Raises:
        UserError: an actor does not fit into the cluster.
    """

    def __init__(self, cfg: SegmentConfig, run: Run, progress: Progress) -> None:
        self._cfg, self._run, self._progress, self._prefix = cfg, run, progress, f"{run.fingerprint}/"
        connection.connect()
        connection.require(1, cfg.cpus_per_actor, cfg.gpus_per_actor, "one actor of the run", connection.ACTOR_KEYS)
        self._since = time.monotonic()

    def summaries(self, pending: list[int]) -> Iterator[dict[str, Any]]:
        """Yield the summary of each pending shard once it is committed; Ray's metrics are set after the caller has read it."""
        rows, metrics = self.dataset(pending).iter_rows(), SegmentationMetrics(self._cfg.output)
        metrics.begin(self._progress)
        for row in rows:
            yield row
            metrics.add(row, self._progress)

    def dataset(self, pending: list[int]) -> ray.data.Dataset:
        """Return the stage chain: shard numbers -> summaries of committed shards."""
        cfg = self._cfg
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        shards: ray.data.Dataset = ray.data.from_items(
            [{"shard": n} for n in pending], override_num_blocks=num_tasks(len(pending), cfg.actors)
        )
        bound = bound_to(cfg, self._run)
        if cfg.decode == "tasks":  # on all nodes; not fused with the actors, since their restarts are set below
            shards = shards.map_batches(
                decode,  # type: ignore[arg-type]  # its second argument comes from fn_kwargs
                batch_size=1,
                batch_format="pyarrow",
                fn_kwargs=bound,
                num_cpus=1,
                scheduling_strategy="SPREAD",
            )
        # All actors start at once, unless they could take the CPUs of decoding tasks: then Ray adds them one by one.
        actors = min(cfg.actors, len(pending))
        PHASES.info("starting %d actor%s, each loads the weights", actors, "" if actors == 1 else "s")
        # Ray Data has no named parameter for an actor's restarts yet, and warns of every other way to set them.
        warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)
        return shards.map_batches(
            Actor,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_kwargs=bound,
            compute=ActorPoolStrategy(min_size=1, max_size=actors, initial_size=1 if cfg.decode == "tasks" else actors),
            num_cpus=cfg.cpus_per_actor,
            num_gpus=cfg.gpus_per_actor,
            ray_remote_args_fn=lambda: {
                "max_restarts": RESTARTS,
                "max_task_retries": RETRIES,
                "runtime_env": worker_environment(cfg.gpus_per_actor),
            },
        )

    def counts(self) -> dict[str, Count]:
        """Return the progress of each actor."""
        found = dict[str, Count]()
        for key in internal_kv._internal_kv_list(self._prefix, namespace=NAMESPACE):
            if (value := internal_kv._internal_kv_get(key, namespace=NAMESPACE)) is not None:
                found[str(key)] = Count(**json.loads(value))
        return found

    def forget(self) -> None:
        """Delete the counts that actors have sent."""
        internal_kv._internal_kv_del(self._prefix, del_by_prefix=True, namespace=NAMESPACE)

    def waits_for(self) -> str:
        """Return what the start of the first actor waits for; empty in the first `WAIT_S` seconds."""
        if time.monotonic() - self._since <= WAIT_S:
            return ""
        free, cpus, gpus = ray.available_resources(), self._cfg.cpus_per_actor, self._cfg.gpus_per_actor
        there = free.get("CPU", 0), free.get("GPU", 0)
        if there[0] >= cpus and there[1] >= gpus:
            return "waiting for Ray to start the processes of the actors"
        return (
            f"waiting for room for an actor: each takes {cpus:g} CPUs and {gpus:g} GPUs, and the cluster has {there[0]:g} "
            f"and {there[1]:g} free"
        )


class Actor(Segmenter):
    """A `Segmenter` that sends its counts to Ray's head."""

    def __init__(self, payload: dict[str, Any], fingerprint: str, retried: dict[int, list[str]]) -> None:
        super().__init__(payload, fingerprint, retried, sender(fingerprint))


def sender(fingerprint: str) -> Callable[[Count], None]:
    """Return the function with which an actor of this run sends its counts."""
    key = f"{fingerprint}/{ray.get_runtime_context().get_actor_id()}"

    def send(count: Count) -> None:
        internal_kv._internal_kv_put(key, json.dumps(asdict(count)), overwrite=True, namespace=NAMESPACE)

    return send
