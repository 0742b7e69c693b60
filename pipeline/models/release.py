"""Writing a checkpoint as a single, self-contained release file with a card."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline import storage
from pipeline.config import ReleaseCard, parse
from pipeline.errors import UserError
from pipeline.models import Network, checkpoint, release_file
from pipeline.models.checkpoint import Checkpoint
from pipeline.synthetic.street import draw_scene

HALVED_ABOVE = 20_000_000  # bytes, if the user does not choose a precision
SCENES, HEIGHT, WIDTH = 4, 256, 384  # generated images on which the labels of both precisions are compared


@dataclass(frozen=True)
class Released:
    """A release file that was written."""

    uri: str
    bytes: int
    sha256: str  # of its weights
    half: bool
    same_weights: bool  # whether they are byte for byte those of the checkpoint
    equal: float | None  # share of the pixels whose label equals that of full precision; None: not compared


def release(
    uri: str, out: str, card: ReleaseCard | None, half: bool | None = None, code: str | None = None
) -> Released:
    """Write the checkpoint at `uri` as one file.

    Args:
        card: description of the network; None: the card of `uri` if it is a release file, else an empty card.
        half: store kernels and matrices as float16; None: only if the file would exceed `HALVED_ABOVE` bytes.
        code: as in `checkpoint.load`.
    Raises:
        UserError: there is no checkpoint, or its network is an exported file; or `out` does not end in .safetensors.
    """
    if not release_file.is_release(out):
        raise UserError(f"release {out}: a release file is known by its ending; name it {out}{release_file.ENDING}")
    ready = checkpoint.load(uri, code)
    if ready.model_config.name == "exported":
        raise UserError(
            f"checkpoint {uri}: its network is an exported file already, which lies in that folder; hand that file on, for "
            "`maskmill import-model`"
        )
    description = checkpoint.describe(uri)
    said = (card if card is not None else card_of(uri)).model_dump(mode="json", exclude_defaults=True)
    stored = checkpoint.read_weights(uri, description)
    weights = release_file.without_metadata(stored)
    data = _file(description, said, weights)
    half = len(data) > HALVED_ABOVE if half is None else half
    if half:
        weights = release_file.halved(weights)
        data = _file(description, said, weights)
    storage.put(out, data)
    sha256 = hashlib.sha256(weights).hexdigest()
    equal = _share_equal(ready, checkpoint.load(out, code)) if half else None
    return Released(out, len(data), sha256, half, sha256 == ready.sha256, equal)


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint or a release file."""

    ready: Checkpoint
    card: ReleaseCard
    weights_bytes: int

    @property
    def parameters(self) -> int:
        return sum(one.numel() for one in self.ready.model.parameters())


def contents(uri: str) -> Contents:
    """Return the contents of a checkpoint, after reading and checking its weights."""
    ready = checkpoint.load(uri)
    return Contents(ready, card_of(uri), checkpoint.weights_size(uri, ready.model_config))


def card_of(uri: str) -> ReleaseCard:
    """Return the card of a release file; an empty card for a checkpoint's folder."""
    values = release_file.read_head(uri).card if release_file.is_release(uri) else {}
    return parse(ReleaseCard, values, where=f"checkpoint {uri}, card")


def _file(description: dict[str, Any], card: dict[str, Any], weights: bytes) -> bytes:
    """Build the file, without paths and URIs from the training."""
    info = {
        key: value for key, value in description["info"].items() if key == "split" or isinstance(value, int | float)
    }
    sha256 = hashlib.sha256(weights).hexdigest()
    return release_file.write({**description, "info": info, "weights_sha256": sha256}, card, weights)


def _share_equal(one: Checkpoint, other: Checkpoint) -> float | None:
    """Return on which share of generated scenes' pixels two networks give the same label; None: they take no RGB pictures."""
    if one.image is not None and len(one.image.bands) != 3:
        return None
    height, width = one.model.legal_size(HEIGHT, WIDTH)
    scenes = [draw_scene(np.random.default_rng(seed), height, width)[0] for seed in range(SCENES)]
    images = [torch.from_numpy(scene).permute(2, 0, 1)[None].float() for scene in scenes]
    labels = [[_labels(each.model, image) for image in images] for each in (one, other)]
    return float(torch.stack([a == b for a, b in zip(*labels, strict=True)]).float().mean())


@torch.inference_mode()
def _labels(model: Network, image: torch.Tensor) -> torch.Tensor:
    best: torch.Tensor = model(model.normalise(image))[-1].argmax(dim=1)
    return best
