"""Start a Ray that serves this process alone."""

import ray

TRIES = 10  # Ray gives its node 30 s to start, which a busy machine may exceed


def start_ray(num_cpus: int, object_store_bytes: int | None = None) -> None:
    """Start Ray on this machine for this process alone, whatever other Ray runs beside it."""
    for left in reversed(range(TRIES)):
        try:
            ray.init(
                "local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False,
                object_store_memory=object_store_bytes,
            )  # fmt: skip
            return
        except Exception:
            if not left:
                raise
            ray.shutdown()
