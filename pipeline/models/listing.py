"""Parameters and GFLOPs of all networks, and the networks that a published file fits."""

import json
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from pydantic import TypeAdapter

from pipeline import models
from pipeline.config import ModelConfig
from pipeline.config.models import NETWORK_SECTIONS
from pipeline.config.networks import CLASSES, HEIGHT, WIDTH, NetworkRow
from pipeline.errors import UserError
from pipeline.models import tensorflow_release


@cache
def variants() -> list[tuple[dict[str, Any], str]]:
    """Return every network, with its variants that differ in size or GFLOPs, and its source."""
    return [
        ({"name": name, **settings}, source)
        for name in NETWORK_SECTIONS
        for settings, source in models.network_class(name).variants
    ]


def count_classes(source: Mapping[str, torch.Tensor]) -> int:
    """Return the number of classes of a published file: the length of its last tensor, the classifier's; 0 without tensors."""
    if tensorflow_release.is_release(source):
        return tensorflow_release.num_classes(source)
    return next((len(value) for value in reversed(list(source.values())) if value.ndim), 0)


def fitting(source: Mapping[str, torch.Tensor], num_classes: int) -> str | None:
    """Return which network's weights a published file holds, with the options to import it; None: no listed network's."""
    adapter = TypeAdapter[ModelConfig](ModelConfig)
    found = count_classes(source) or num_classes
    for row, _ in variants():
        for values in ({**row}, {**row, "aux": False}) if row["name"] in ("fcn_resnet", "deeplabv3") else ({**row},):
            for classes in sorted({num_classes, found}, key=lambda count: count != num_classes):
                try:
                    cfg = models.published_config(source, adapter.validate_python(values))
                    with torch.device("meta"), warnings.catch_warnings():
                        warnings.simplefilter(
                            "ignore", UserWarning
                        )  # about AlexNet's published kernel, which the user did not choose
                        models.published_weights(source, models.build(cfg, classes))
                except UserError:
                    continue
                name, options = values.pop("name"), " ".join(f"--set {key}={value}" for key, value in values.items())
                if classes == num_classes:
                    return f"they fit --model {name} {options}".rstrip()
                return (
                    f"they are of --model {name} {options}, with {classes} classes where the label space has {num_classes}: "
                    "give --label-space of theirs; ImageNet classifiers are for `weights: FILE` in a training config"
                )
    return None


def counted() -> Iterator[NetworkRow]:
    """Yield all networks, external ones last, with parameters and GFLOPs from torch's meta device, which computes nothing."""
    from torch.utils.flop_counter import FlopCounterMode  # which imports Triton

    adapter = TypeAdapter(ModelConfig)
    for values, source in variants():
        with torch.device("meta"), warnings.catch_warnings():
            # A warning about a published network's kernel, meant for those who choose it; a listing does not choose.
            warnings.filterwarnings("ignore", message="transposed convolution", category=UserWarning)
            network = models.build(adapter.validate_python(values), CLASSES).eval()
            x = torch.zeros(1, 3, *network.legal_size(HEIGHT, WIDTH))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(x)
        variant = " ".join(_setting(key, value) for key, value in values.items() if key != "name")
        parameters = sum(p.numel() for p in network.parameters())
        yield NetworkRow(str(values["name"]), variant, parameters, counter.get_total_flops() / 1e9, source)
    for name in NETWORK_SECTIONS:
        if (row := models.network_class(name).row) is not None:
            yield NetworkRow(name, row[0], None, None, row[1])


def _setting(key: str, value: object) -> str:
    """Return a setting in words: a name by itself, others with their key."""
    return value if isinstance(value, str) else f"{key}={json.dumps(value)}"
