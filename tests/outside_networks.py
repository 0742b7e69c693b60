"""Networks that are none of ours, small: architectures for transformers, and builders as a user writes them."""

import torch
from torch import nn

SEGFORMER = {
    "model_type": "segformer", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 4],
    "decoder_hidden_size": 16,
}  # fmt: skip
UPERNET = {
    "model_type": "upernet", "hidden_size": 16, "auxiliary_channels": 16,
    "backbone_config": {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
                        "out_features": ["stage1", "stage2", "stage3", "stage4"]},
}  # fmt: skip
DPT = {
    "model_type": "dpt", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": 64, "patch_size": 16, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 16, 24, 32],
    "fusion_hidden_size": 16,
}  # fmt: skip


class Small(nn.Module):
    """Two convolutions; its output in one of the forms that networks have."""

    def __init__(self, num_classes: int, stride: int = 1, form: str = "tensor") -> None:
        super().__init__()
        self.form = form
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, num_classes, 1)
        self.aux = nn.Conv2d(8, num_classes, 1) if form in ("dict", "list") else None

    def forward(self, x: torch.Tensor):
        y = self.encoder(x)
        match self.form:
            case "dict":
                return {"aux": self.aux(y), "out": self.head(y)}
            case "list":
                return [self.aux(y), self.head(y)]
            case "flat":
                return self.head(y).mean(dim=(2, 3))
            case "nan":
                return self.head(y) * float("nan")
            case "fails":
                raise RuntimeError("no such luck")
        return self.head(y)


def build(num_classes: int, **arguments) -> nn.Module:
    return Small(num_classes, **arguments)


def too_many(num_classes: int) -> nn.Module:
    return Small(num_classes + 1)


def raises(num_classes: int) -> nn.Module:
    raise KeyError("depth")


def no_module(num_classes: int) -> int:
    return num_classes
