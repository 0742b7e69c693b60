"""TensorBoard: the values of metrics.jsonl as scalars, and masks beside labels for the same four validation images."""

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import storage
from pipeline.config import FIGURES, TrainConfig
from pipeline.errors import UserError
from pipeline.imaging.colours import blend
from pipeline.labels import Colour
from pipeline.train.metrics_log import Record

_SCALARS = ("lr", "gradient_norm", "data_wait", "images_per_s")
_ALPHA = 0.5  # of the class colours over the image

Example = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # image id, image (H, W, 3), label (H, W), mask (H, W)


def require_tensorboard() -> None:
    """Raise UserError if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("tensorboard: true needs the package tensorboard, which is not installed; pip install "
                         "'maskmill[watch]', or set tensorboard to false")  # fmt: skip


class Board:
    """Event files below <output>/tensorboard: written locally, and copied there after each validation."""

    def __init__(self, output: str, records: Sequence[Record]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._uri = storage.join(output, "tensorboard")
        self._local = tempfile.TemporaryDirectory(prefix="board-")
        # A resumed run repeats the steps after its snapshot, so TensorBoard must drop its old records of them.
        step = max((record["step"] for record in records), default=0)
        self._writer = SummaryWriter(self._local.name, purge_step=step + 1 if step else None)
        self._written = len(records)

    def add(self, records: Sequence[Record], examples: Sequence[Example], colours: Sequence[Colour]) -> None:
        """Add the new records, and the examples of this validation."""
        for record in records[self._written :]:
            if record["kind"] == "step":
                first = record["step"] - len(record["losses"]) + 1
                for step, loss in enumerate(record["losses"], start=first):
                    self._writer.add_scalar("train/loss", loss, step)
                for name in _SCALARS:
                    self._writer.add_scalar(f"train/{name}", record[name], record["step"])
            elif record["kind"] == "validation":
                for name in FIGURES:
                    self._writer.add_scalar(f"validation/{name}", record[name], record["step"])
                for name, iou in record["iou"].items():
                    if iou is not None:
                        self._writer.add_scalar(f"iou/{name}", iou, record["step"])
        self._written = len(records)
        step = records[-1]["step"]
        for image_id, image, label, mask in examples:
            both = np.hstack([blend(image, ids, colours, _ALPHA) for ids in (mask, label)])
            self._writer.add_image(f"mask and truth/{image_id}", both, step, dataformats="HWC")
        self._writer.flush()
        for file in Path(self._local.name).iterdir():
            storage.put(storage.join(self._uri, file.name), file.read_bytes())


def open_board(cfg: TrainConfig, rank: int, records: Sequence[Record]) -> Board | None:
    """Return the board on rank 0 if the config asks for one, else None."""
    return Board(cfg.output, records) if cfg.tensorboard and rank == 0 else None
