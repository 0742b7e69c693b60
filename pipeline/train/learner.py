"""The learner of one worker: network, optimiser and loss, and one training step."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from pipeline import models
from pipeline.config import TrainConfig
from pipeline.config.models import OutsideConfig
from pipeline.models import Network, checkpoint, published_file
from pipeline.models.published_file import State
from pipeline.models.python_code import code_of
from pipeline.train import parallel
from pipeline.train.recipe import Ema, Loss, build_optimizer, class_weights, held_still, set_lr, set_norm


@dataclass(frozen=True)
class StepResult:
    """Results over all workers; tensors, so that reading them can wait while a GPU computes."""

    lr: float
    loss: torch.Tensor  # ()
    gradient_norm: torch.Tensor  # (), L2, before clipping
    data_wait_s: torch.Tensor  # (), mean over workers


class Learner:
    """Network, optimiser, loss and averaged weights of one worker.

    The random numbers of a step (dropout) are a function of seed, step and rank. So there is no random state to store, and a
    resumed run draws the same numbers as an uninterrupted one.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        num_classes: int,
        counts: np.ndarray | None,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        """Build the learner. `counts`: (I, C) labelled pixels of each training image, if the loss weights classes."""
        self.cfg, self.rank, self.world_size, self.device = cfg, rank, world_size, device
        torch.manual_seed(cfg.seed)
        pretrained, self.started_from = _start(cfg)
        bands = 3 if cfg.image is None else len(cfg.image.bands)
        self.network: Network = models.build(cfg.model, num_classes, pretrained, bands).place(device)
        if cfg.start_from is not None:
            start = checkpoint.load(cfg.start_from, code_of(cfg.model))
            models.check_encoder(self.network, start.model)
            models.fit_bands(self.network, start.model)
            models.start_from(self.network, start.model.state_dict())
            # As in the training of its encoder, unless the config says otherwise.
            given = cfg.model if isinstance(cfg.model, OutsideConfig) else None
            if given is None or given.mean is None:
                self.network.mean = start.model.mean
            if given is None or given.std is None:
                self.network.std = start.model.std
        for part in held_still(self.network, cfg.freeze_backbone, cfg.freeze_all_but_head):
            part.requires_grad_(False)
        self.ema = Ema(self.network, cfg.ema) if cfg.ema is not None else None
        sharded = cfg.parallel == "fsdp" and world_size > 1
        self._whole = copy.deepcopy(self.network).requires_grad_(False) if sharded else None
        self._set_norm()
        self.model = parallel.spread(self.network, cfg, device, world_size)
        self.optimizer = build_optimizer(self.network, cfg.optimizer)
        weights = {} if counts is None else {kind: class_weights(counts, kind) for kind in cfg.loss.class_weights}
        self.loss = Loss(cfg.loss, weights, device)

    def step(self, images: torch.Tensor, label: torch.Tensor, step: int, steps: int, data_wait_s: float) -> StepResult:
        """Train on this worker's share of a batch: (n, D, h, w) images and (n, h, w) uint8 labels. Steps count from 0."""
        torch.manual_seed(self.cfg.seed + 1_000_003 * step + self.rank)
        lr = set_lr(self.optimizer, self.cfg.optimizer, step, steps)
        images, label = (batch.to(self.device, non_blocking=True) for batch in (images, label))
        totals = parallel.sum_over_workers(self.loss.totals(label), self.world_size)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        parts = list(zip(images.chunk(self.cfg.accumulate), label.chunk(self.cfg.accumulate), strict=True))
        for number, (part, truth) in enumerate(parts, start=1):
            with parallel.gradients_shared(self.model, now=number == len(parts)):
                x = self.network.normalise(part).contiguous(memory_format=torch.channels_last)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16"):
                    logits = self.model(x)
                share = self.loss(logits, truth.long(), totals)
                (share * self.world_size).backward()  # workers' gradients are averaged, and shares of a loss add up
            loss += share.detach()
        norm = self._clip()
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.network.state_dict(), step)
        shares = torch.stack([loss, torch.tensor(data_wait_s / self.world_size, device=self.device)])
        loss, wait = parallel.sum_over_workers(shares, self.world_size)
        return StepResult(lr, loss, norm, wait)

    def resting(self) -> Network:
        """Return the network to validate and save, with plain parameters: the averaged network if there is one."""
        if self.ema is not None:
            return self.ema.network
        if self._whole is not None:
            self._whole.load_state_dict(parallel.whole_weights(self.network))
            return self._whole
        return self.network

    def wake(self) -> None:
        """Return to training mode after a validation."""
        self._set_norm()

    def _set_norm(self) -> None:
        cfg = self.cfg
        set_norm(self.network, cfg.freeze_backbone, cfg.norm == "frozen", cfg.freeze_all_but_head)

    def _clip(self) -> torch.Tensor:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.cfg.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.cfg.optimizer.clip_norm, norm)
        full_norm: torch.Tensor = norm.full_tensor() if isinstance(norm, torch.distributed.tensor.DTensor) else norm
        return full_norm.detach()


def _start(cfg: TrainConfig) -> tuple[bool | State, dict[str, str]]:
    """Return the backbone's initial weights as `models.build` takes them, and for a file its URI and sha256, to be recorded."""
    if cfg.start_from is not None or cfg.weights in ("imagenet", "random"):
        return cfg.weights == "imagenet" and cfg.start_from is None, {}
    tensors, sha256 = published_file.read(cfg.weights)
    return tensors, {"weights_source": cfg.weights, "weights_source_sha256": sha256}
