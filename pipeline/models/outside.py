"""Adapter for external networks to our interface. Letters: N batch, C classes, H rows, W columns."""

import importlib
import traceback
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from pipeline.config.models import OutsideConfig
from pipeline.errors import UserError
from pipeline.models.base import IMAGENET_MEAN, IMAGENET_STD, Network
from pipeline.models.layers import upsample

_TORCH = Path(torch.__file__).parent
_MOST = 400  # characters of an external error that are repeated in ours


class Outside(Network):
    """A module of another library, which is run once on a small image to check it.

    Logits smaller than the image are enlarged bilinearly. The module is built on the CPU, whatever torch's default device is,
    because external code seldom runs on the meta device.

    Raises:
        UserError: the module cannot be built or run, or its output does not have C classes.
    """

    variants = ()
    every_parameter_learns = False  # unknown
    encoders: ClassVar[tuple[str, ...]] = ("backbone", "encoder")  # attributes that may hold the encoder
    row: ClassVar[tuple[str, str]]  # entry in `maskmill models`: how to choose a network of the family, and its source

    def __init__(self, cfg: OutsideConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.title = num_classes, f"model {cfg.name}"  # type: ignore[attr-defined]
        self.min_size, self.multiple_of = -(-cfg.min_size // cfg.multiple_of) * cfg.multiple_of, cfg.multiple_of
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        with torch.device("cpu"):
            self.net = self.make(cfg)
            self.mean, self.std = cfg.mean or self.mean, cfg.std or self.std
            self._try()

    @abstractmethod
    def make(self, cfg: Any) -> nn.Module:
        """Build the module; set `mean` and `std` if they are known."""

    def start_pretrained(self) -> None:
        """Load published weights into the module, if there are any."""

    def outputs(self, x: torch.Tensor) -> Any:
        """Return the module's output for x."""
        return self.net(x)

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        """The encoder, or the whole module if no encoder is known."""
        return self.net if self.encoder is None else self.encoder

    @property
    def encoder(self) -> nn.Module | None:
        for name in self.encoders:
            try:
                found = attrgetter(name)(self.net)
            except AttributeError:
                continue
            if isinstance(found, nn.Module):
                return found
        return None

    def fine_tuned(self) -> list[nn.Module]:
        return [] if self.encoder is None else [self.encoder]

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        self.check_size(x)
        return self._all_logits(x)[-1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, D, H, W) normalised -> [auxiliary logits while training, logits], each (N, C, H, W)."""
        self.check_size(x)
        logits = self._all_logits(x)
        return [self._enlarged(one, x) for one in (logits if self.training else logits[-1:])]

    def _all_logits(self, x: torch.Tensor) -> list[torch.Tensor]:
        logits = list(_logits_of(self.outputs(x)))
        if not logits:
            raise UserError(f"{self.title}: the network's output is an empty list; it must end with the logits")
        for one in logits:
            if not isinstance(one, torch.Tensor) or one.ndim != 4:
                found = f"of shape {tuple(one.shape)}" if isinstance(one, torch.Tensor) else f"a {type(one).__name__}"
                raise UserError(
                    f"{self.title}: an output of the network is {found}; allowed are tensors (N, C, h, w), a dict of them with "
                    "the key out or logits, and lists of them of which the last is the prediction"
                )
            if one.shape[1] != self.num_classes:
                raise UserError(
                    f"{self.title}: the network's output has {one.shape[1]} classes and the label space {self.num_classes}; "
                    "let what builds it make as many as it is asked for (num_classes)"
                )
        return logits

    def _enlarged(self, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return logits if logits.shape[-2:] == x.shape[-2:] else upsample(logits, like=x)

    @torch.no_grad()
    def _try(self) -> None:
        """Run one pass in evaluation mode; sets `enlarges`."""
        self._check_memory()
        size = self.legal_size(64, 96)
        x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        self.eval()
        try:
            coarse = self.coarse(x)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.title}: the network fails on an image of {size[0]}x{size[1]} pixels ({words(error)}); fix it, or set "
                "model.multiple_of and model.min_size to what it takes"
            ) from error
        if not torch.isfinite(coarse).all():
            raise UserError(
                f"{self.title}: the network's output for an image of noise holds NaN or infinity as it is built; fix its "
                "initialisation"
            )
        self._check_stride(size, coarse.shape[-2:])
        self.enlarges = coarse.shape[-2] < size[0] and coarse.shape[-1] < size[1]
        self.train()

    def _check_stride(self, size: tuple[int, int], found: torch.Size) -> None:
        rows, columns = (whole / part for whole, part in zip(size, found, strict=True))
        if max(rows, columns) > 2 * min(rows, columns):
            raise UserError(
                f"{self.title}: the network's output for an image of {size[0]}x{size[1]} pixels is {found[0]}x{found[1]}: it "
                f"has a stride of {rows:.3g} down and of {columns:.3g} across; let it keep the image's proportions"
            )

    def _check_memory(self) -> None:
        seen: dict[int, str] = {}
        for name, tensor in self.state_dict().items():
            other = seen.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
            if other != name:
                raise UserError(
                    f"{self.title}: {other} and {name} share one piece of memory, which a checkpoint cannot keep; give each a "
                    "tensor of its own"
                )


def package(name: str, extra: str) -> ModuleType:
    """Import a library that one of our extras installs.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"this network needs the package {name}, which cannot be imported here ({error}); run pip install "
            f"'maskmill[{extra}]' on every machine of the run"
        ) from None


def words(error: BaseException) -> str:
    """Return an error of external code as part of a message, with the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if not Path(frame.filename).is_relative_to(_TORCH)][-1:]
    where = f" at {last[0].filename}:{last[0].lineno}" if last else ""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {lines[0][:_MOST]}' if lines else ''}{where}"


def _logits_of(output: Any) -> Iterable[Any]:
    """Return a network's outputs in our order: auxiliary ones first, the prediction last."""
    if isinstance(output, Mapping):
        main = next((output[key] for key in ("out", "logits") if key in output), None)
        aux = output.get("aux")
        auxiliary = [] if aux is None else list(aux) if isinstance(aux, list | tuple) else [aux]
        return [*auxiliary, main]
    if isinstance(output, list | tuple):
        return output
    return [getattr(output, "logits", output)]
