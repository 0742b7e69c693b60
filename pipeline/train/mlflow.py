"""Optional MLflow tracking: the driver sends a run's parameters and scores."""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pipeline.config import FIGURES, TrainConfig
from pipeline.errors import UserError
from pipeline.train.metrics_log import Record

_log = logging.getLogger(__name__)
_OF_STEPS = ("loss", "lr", "gradient_norm", "data_wait", "images_per_s")


def require_mlflow() -> None:
    """Raise UserError if MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("mlflow: the package mlflow is not installed; pip install mlflow-skinny, or leave the key out")


@contextmanager
def mlflow_run(cfg: TrainConfig) -> Iterator[Callable[[Record], None]]:
    """Yield a function to call with each record: it writes to an MLflow run named after the output, if one is configured."""
    if cfg.mlflow is None:
        yield lambda record: None
        return
    import mlflow

    try:
        mlflow.set_tracking_uri(cfg.mlflow)
        run = mlflow.start_run(run_name=cfg.output)
        mlflow.log_dict(cfg.model_dump(mode="json"), "config.json")
    except mlflow.MlflowException as error:
        raise UserError(
            f"mlflow: {cfg.mlflow} does not accept a run ({error}); fix the URI, or leave the key out"
        ) from error
    client, lost = mlflow.MlflowClient(), False

    def track(record: Record) -> None:
        nonlocal lost
        if lost:
            return
        try:
            names = {"step": _OF_STEPS, "validation": FIGURES}.get(record["kind"], ())
            stage = f"stage-{record['stage'].split('/')[0]}/" if "stage" in record else ""
            for name in names:
                client.log_metric(run.info.run_id, stage + name, record[name], step=record["step"])
        except mlflow.MlflowException as error:  # no reason to lose a training run
            lost = True
            _log.warning("mlflow: %s is lost (%s); training goes on without it", cfg.mlflow, error)

    with suppress(mlflow.MlflowException), run:  # ending the run fails if the server is gone by then
        yield track
