"""Small networks from outside this package: architectures of transformers, and builders as a user would write them."""

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
SWIN = {
    "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4, "image_size": 64,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
_DECODER = {
    "encoder_feedforward_dim": 16, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16,
    "num_queries": 8, "hidden_dim": 32, "backbone_config": SWIN,
}  # fmt: skip
MASK2FORMER = {"model_type": "mask2former", "feature_size": 32, "mask_feature_size": 32, **_DECODER}
ONEFORMER = {
    "model_type": "oneformer", "conv_dim": 32, "mask_dim": 32, "text_encoder_width": 16, "text_encoder_num_layers": 1,
    "query_dec_layers": 1, "task_seq_len": 24, **_DECODER,
}  # fmt: skip
MASKFORMER = {
    "model_type": "maskformer", "backbone_config": SWIN, "fpn_feature_size": 32, "mask_feature_size": 32,
    "decoder_config": {"model_type": "detr", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "decoder_ffn_dim": 16,
                       "encoder_ffn_dim": 16, "decoder_attention_heads": 2, "encoder_attention_heads": 2, "num_queries": 8},
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
            case "turned":
                return self.head(y).transpose(2, 3)
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
