"""MLflow, for those who have it: parameters and figures of a run, sent by the process that drives it."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.config import FIGURES, TrainConfig
from pipeline.records import Record

_OF_STEPS = ("loss", "lr", "gradient_norm", "data_wait", "images_per_s")


def require_mlflow() -> None:
    """Raise ValueError where MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise ValueError("mlflow: the package mlflow is not installed; pip install mlflow-skinny, or leave the key out")


@contextmanager
def mlflow_run(cfg: TrainConfig) -> Iterator[Callable[[Record], None]]:
    """What each record is handed to: an MLflow run named after the output if the config asks for one, else nothing."""
    if cfg.mlflow is None:
        yield lambda record: None
        return
    import mlflow

    mlflow.set_tracking_uri(cfg.mlflow)
    with mlflow.start_run(run_name=cfg.output) as run:
        mlflow.log_dict(cfg.model_dump(mode="json"), "config.json")
        client = mlflow.MlflowClient()

        def track(record: Record) -> None:
            names = {"step": _OF_STEPS, "validation": FIGURES}.get(record["kind"], ())
            stage = f"stage-{record['stage'].split('/')[0]}/" if "stage" in record else ""
            for name in names:
                client.log_metric(run.info.run_id, stage + name, record[name], step=record["step"])

        yield track
