"""A network that was exported to a file. Letters: N batch, C classes, H rows, W columns."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.models import ExportedConfig
from pipeline.errors import UserError
from pipeline.models.base import Network
from pipeline.models.exported_file import KINDS, ExportedFile, OnnxFile
from pipeline.models.layers import upsample

_LEAST = torch.finfo(torch.float32).tiny  # replaces a probability of 0, whose logarithm is undefined


class Exported(Network):
    """A file's network with its output converted to logits: probabilities by the logarithm, class ids as certain ones.

    It has no weights of its own; `open` loads the file.
    """

    variants = ()
    row = ("import-model FILE", "an ONNX, torch.export or TorchScript file")
    every_parameter_learns = False

    def __init__(self, cfg: ExportedConfig, num_classes: int) -> None:
        super().__init__()
        self.cfg, self.num_classes = cfg, num_classes
        self.min_size, self.multiple_of, self.tile = cfg.min_size, cfg.multiple_of, cfg.size
        self.enlarges = cfg.stride > 1 and cfg.scores == "logits"
        self.own_engine = "onnxruntime" if cfg.form == "onnx" else "torch"
        self.gives_scores = cfg.scores != "ids"
        self._file: ExportedFile | None = None
        self.where = "model"

    def open(self, data: bytes, where: str) -> None:
        """Load the file from its bytes.

        Raises:
            UserError: they cannot be read, or a package is missing.
        """
        self.use(KINDS[self.cfg.form](data, where), where)

    def use(self, file: ExportedFile, where: str) -> None:
        """Use a file that is already open."""
        self._file, self.where = file, where

    @property
    def onnx(self) -> bytes | None:
        """The file's bytes, if it is ONNX."""
        return self._file.data if isinstance(self._file, OnnxFile) else None

    def computed_by(self, file: ExportedFile) -> "Exported":
        """Return the same network, computed by another engine."""
        other = Exported(self.cfg, self.num_classes).eval()
        other.mean, other.std = self.mean, self.std
        other.use(file, self.where)
        return other

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        """The whole network, since its parts cannot be told apart; it is not trained."""
        return self

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        return self.tile or super().legal_size(height, width)

    def check_size(self, x: torch.Tensor) -> None:
        if self.tile is not None and x.shape[-2:] != self.tile:
            height, width = x.shape[-2:]
            raise UserError(
                f"{self.where}: the network takes images of {self.tile[0]}x{self.tile[1]} alone, found {height}x{width}; "
                f"set predict.tile: [{self.tile[0]}, {self.tile[1]}]"
            )
        super().check_size(x)

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        self.check_size(x)
        return self._scores(x)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)]."""
        self.check_size(x)
        scores = self._scores(x)
        if scores.shape[-2:] != x.shape[-2:]:
            scores = (
                upsample(scores, like=x) if self.gives_scores else F.interpolate(scores, x.shape[-2:], mode="nearest")
            )
        return [scores if self.cfg.scores == "logits" else scores.clamp(min=_LEAST).log()]

    def raw(self, x: torch.Tensor) -> torch.Tensor:
        """Return the unconverted output of the file for x (N, 3, H, W) normalised.

        Raises:
            UserError: the file has several outputs, and none of them is chosen.
        """
        return torch.cat([self._one(part) for part in self._batches(x)])[: len(x)]

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, C, h, w) float32 logits or probabilities."""
        found = self.raw(x)
        if self.cfg.scores == "ids":
            return self._one_hot(found)
        found = found if self.cfg.scores_layout == "NCHW" else found.permute(0, 3, 1, 2)
        if found.shape[1] != self.num_classes:
            raise UserError(f"{self.where}: the network's output has {found.shape[1]} classes, not {self.num_classes}")
        return found.float()

    def _one_hot(self, ids: torch.Tensor) -> torch.Tensor:
        """Convert class ids (N, h, w), maybe with a class dimension of size 1, to one-hot (N, C, h, w)."""
        if ids.ndim == 4:
            ids = ids.squeeze(1 if self.cfg.scores_layout == "NCHW" else 3)
        ids = ids.long()
        if not 0 <= int(ids.min()) <= int(ids.max()) < self.num_classes:
            raise UserError(
                f"{self.where}: the network gives class ids {int(ids.min())} to {int(ids.max())}, and the label space has "
                f"0 to {self.num_classes - 1}; import it with the label space of its own classes"
            )
        return F.one_hot(ids, self.num_classes).permute(0, 3, 1, 2).float()

    def _batches(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield batches in the form that the file accepts; the last one is filled up with zeros."""
        if self.cfg.dtype == "uint8":
            x = x.round().clamp(0, 255).to(torch.uint8)
        elif self.cfg.dtype == "float16":
            x = x.half()
        x = x if self.cfg.layout == "NCHW" else x.permute(0, 2, 3, 1)
        for part in x.split(self.cfg.batch or len(x)):
            missing = (self.cfg.batch or len(part)) - len(part)
            yield torch.cat([part, part.new_zeros((missing, *part.shape[1:]))]).contiguous()

    def _one(self, x: torch.Tensor) -> torch.Tensor:
        assert self._file is not None
        outputs = self._file.run(x)
        if self.cfg.output in outputs:
            return outputs[self.cfg.output]
        if self.cfg.output:
            raise UserError(f"{self.where}: the network has no output {self.cfg.output}; it has {', '.join(outputs)}")
        if len(outputs) != 1:
            raise UserError(
                f"{self.where}: the network has {len(outputs)} outputs ({', '.join(outputs)}); name that of the scores with "
                "--output-name"
            )
        return next(iter(outputs.values()))
