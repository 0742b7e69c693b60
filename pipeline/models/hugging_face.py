"""Networks of Hugging Face's transformers. Letters: N batch, Q queries, C classes, H rows, W columns."""

import copy
import json
import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipeline import storage
from pipeline.config.models import TransformersConfig
from pipeline.errors import UserError
from pipeline.models.bands import RGB
from pipeline.models.outside import Outside, package, words

QUERIES = ("maskformer", "mask2former", "oneformer")  # model types that output classes and masks of queries
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_INDEX = "model.safetensors.index.json"  # names the files of weights that lie in several
_PICKLE = "pytorch_model.bin"
FILES = ("config.json", "preprocessor_config.json", "model.safetensors", _INDEX, *TOKENIZER)
TASK = "the task is semantic"  # OneFormer's task prompt (arXiv:2211.06220, section 3.1)
_TOKENS = "task_tokens"  # our key for its tokens in the architecture, so that a checkpoint needs no tokenizer
_BGR = "flip_channel_order"  # our key: whether the network takes blue, green, red, as MobileViT does
# Keys of config.json that are left out, since the label space and the run determine them.
_OURS = ("id2label", "label2id", "num_labels", "dtype", "torch_dtype", "transformers_version")
_Triple = tuple[float, float, float]
_SMALLEST = 1e-6  # score of a class that no query claims


class HuggingFace(Outside):
    """A network of AutoModelForSemanticSegmentation, or one of queries with masks, from its config.json.

    The logits of query networks are the logarithm of the scores of `post_process_semantic_segmentation` at the image's size:
    the same classes win, and softmax gives each class its share of the scores. Auxiliary heads are left out, since the
    library uses them only in its own loss. OneFormer gets the prompt for the semantic task, without the text encoder used in
    its training.
    """

    task: torch.Tensor  # (1, L) of OneFormer
    row = ("config: folder or hub name of a SegFormer, UPerNet, DPT, Mask2Former, ...", "transformers")
    encoders = ("backbone", "segformer", "dpt", "beit", "model.pixel_level_module.encoder", "encoder")

    def make(self, cfg: TransformersConfig) -> nn.Module:
        self.cfg = settled = self.settle(cfg)
        self.title = f"model transformers {cfg.config}"
        self.mean, self.std = settled.mean or self.mean, settled.std or self.std
        self.bgr = bool((settled.architecture or {}).get(_BGR))
        auto, config = self._auto()
        self.kind, self.queries = config.model_type, config.model_type in QUERIES
        if self.kind == "oneformer":
            self.register_buffer("task", torch.tensor([self._task_tokens(config.task_seq_len)]), persistent=False)
        self.square = (
            self.kind == "dpt" and config.backbone_config is None and not config.is_hybrid
        )  # as transformers has it
        try:
            return auto.from_config(config, dtype=torch.float32)
        except Exception as error:
            raise UserError(
                f"{self.title}: transformers makes no network of its config.json ({words(error)})"
            ) from error

    def start_pretrained(self) -> None:
        """Load the weights beside config.json, if there are any; tensors of another shape (the head's) stay random."""
        auto, config = self._auto()
        package("transformers", "transformers").utils.logging.disable_progress_bar()  # training has its own
        folder = _folder(self.cfg.config)
        if Path(folder).is_dir() and not any(Path(folder).glob("*.safetensors")):
            if (Path(folder) / _PICKLE).exists():
                raise UserError(
                    f"{self.title}: its weights are {_PICKLE}, a pickle, which can run code and is not read; save them as "
                    "model.safetensors with save_pretrained, or set weights: random"
                )
            return
        try:
            with torch.device("cpu"):
                self.net = auto.from_pretrained(
                    folder, config=config, ignore_mismatched_sizes=True, use_safetensors=True, dtype=torch.float32
                )
        except Exception as error:
            raise UserError(
                f"{self.title}: its weights cannot be loaded ({words(error)}); give a folder with config.json and "
                "model.safetensors, or set weights: random"
            ) from error
        self.net.train()

    def outputs(self, x: torch.Tensor) -> Any:
        if self.bgr and x.shape[1] == RGB:
            x = x.flip(1)
        if not self.queries:
            return self.net(pixel_values=x).logits
        task = {"task_inputs": self.task.expand(len(x), -1)} if self.kind == "oneformer" else {}
        found = self.net(pixel_values=x, **task)
        classes, masks = found.class_queries_logits, found.masks_queries_logits
        return combine_queries(classes, masks, x.shape[-2:], enlarge_first=self.kind == "mask2former")

    def expect_bands(self, bands: int) -> None:
        """Let the embeddings of patches, which compare an image with its number of channels, take `bands` of them."""
        module: Any
        for module in self.net.modules():
            if getattr(module, "num_channels", None) == RGB:
                module.num_channels = bands

    def shards(self) -> list[nn.Module]:
        """Return no parts: transformers finds an encoder's maps by class names, which FSDP changes for parts."""
        return []

    def _task_tokens(self, length: int) -> list[int]:
        tokens = (self.cfg.architecture or {}).get(_TOKENS, [])
        if len(tokens) != length:
            raise UserError(
                f"{self.title}: OneFormer is told its task in {length} numbers, model.architecture.{_TOKENS}, found "
                f"{len(tokens)}; leave model.architecture out: training writes it from the folder's config and tokenizer"
            )
        return list(tokens)

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        first, second = super().legal_size(height, width)
        return (max(first, second),) * 2 if self.square else (first, second)

    def _auto(self) -> tuple[Any, Any]:
        """Return the network's class in transformers, and its config for our classes."""
        transformers = package("transformers", "transformers")
        whole = copy.deepcopy(self.cfg.architecture or {})  # transformers modifies the sections that it gets
        raw = {key: value for key, value in whole.items() if key not in (*_OURS, _TOKENS, _BGR)}
        kind = raw.get("model_type")
        if kind not in transformers.CONFIG_MAPPING:
            raise UserError(
                f"{self.title}: this transformers ({transformers.__version__}) knows no model_type {kind!r}"
            )
        config = transformers.CONFIG_MAPPING[kind].from_dict(raw, num_labels=self.num_classes)
        if getattr(config, "use_auxiliary_head", False):
            config.use_auxiliary_head = False
        if kind == "oneformer":
            config.is_training = False
        if kind in QUERIES:
            return transformers.AutoModelForUniversalSegmentation, config
        auto = transformers.AutoModelForSemanticSegmentation
        if type(config) not in auto._model_mapping:
            known = ", ".join(sorted({key.model_type for key in auto._model_mapping} | set(QUERIES)))
            raise UserError(
                f"{self.title}: model_type {kind} is not a semantic segmentation network; known are {known}"
            )
        return auto, config

    @classmethod
    def settle(cls, cfg: TransformersConfig) -> TransformersConfig:  # type: ignore[override]
        if cfg.architecture is not None:
            return cfg
        folder, transformers = _folder(cfg.config), package("transformers", "transformers")
        try:
            raw, _ = transformers.PreTrainedConfig.get_config_dict(folder)
            file = _file(folder, "preprocessor_config.json")
        except Exception as error:
            raise UserError(
                f"model.config {cfg.config}: no config.json of transformers is found there ({words(error)}); give a folder "
                "that holds one, or a name on the Hugging Face hub that this machine reaches"
            ) from error
        mean, std, bgr = _preparation(json.loads(Path(file).read_text())) if file else (None, None, False)
        mean, std = cfg.mean or mean, cfg.std or std
        kept = {key: value for key, value in raw.items() if key not in _OURS}
        if bgr:
            kept[_BGR] = True
        if kept.get("model_type") == "oneformer":
            kept[_TOKENS] = _tokens_of_task(cfg.config, kept.get("task_seq_len", 77))
        return cfg.model_copy(update={"architecture": kept, "mean": mean, "std": std})


def combine_queries(
    classes: torch.Tensor, masks: torch.Tensor, size: tuple[int, ...], enlarge_first: bool
) -> torch.Tensor:
    """Combine (N, Q, C + 1) class and (N, Q, h, w) mask logits of queries to (N, C, H, W) logits of (H, W) = `size`.

    Args:
        enlarge_first: enlarge the masks before computing scores, as for Mask2Former; for MaskFormer the scores are enlarged.
    """
    shares = classes.softmax(dim=-1)[..., :-1]  # without "no object"
    if enlarge_first:
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
    scores = torch.einsum("nqc,nqhw->nchw", shares, masks.sigmoid())
    if not enlarge_first:
        scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    return scores.float().clamp(min=_SMALLEST).log()


def _tokens_of_task(config: str, length: int) -> list[int]:
    """Return the task prompt as token numbers of the folder's tokenizer, padded with zeros."""
    folder, transformers = _folder(config), package("transformers", "transformers")
    try:
        if not any(_file(folder, name) for name in ("tokenizer.json", "vocab.json")):
            raise FileNotFoundError("neither tokenizer.json nor vocab.json")  # transformers would create an empty one
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        said = tokenizer(TASK, padding="max_length", max_length=length, truncation=True)
    except Exception as error:
        raise UserError(
            f"model.config {config}: OneFormer is told its task in words, and there is no tokenizer for them ({words(error)}); "
            "put the vocab.json and merges.txt of the network's release beside config.json"
        ) from error
    return [int(token * seen) for token, seen in zip(said["input_ids"], said["attention_mask"], strict=True)]


def _file(folder: str, name: str) -> str | None:
    """Return the local path of a file from a folder or the hub, if it exists."""
    found: str | None = package("transformers", "transformers").utils.cached_file(
        folder, name, _raise_exceptions_for_missing_entries=False
    )
    return found


def _preparation(file: dict[str, Any]) -> tuple[_Triple | None, _Triple | None, bool]:
    """Return mean and std of pixel values in [0, 1], and whether the network takes BGR, from a preprocessor_config.json.

    Keys that the file lacks have the values of the class that it names. Values that are not scaled to [0, 1], or by another
    factor, or not normalised, are expressed by another mean and std.
    """
    name = file.get("image_processor_type") or file.get("feature_extractor_type") or ""
    known = getattr(package("transformers", "transformers"), name.replace("FeatureExtractor", "ImageProcessor"), None)

    def value(key: str, otherwise: Any = None) -> Any:
        return file[key] if key in file else getattr(known, key, otherwise)

    bgr = bool(value("do_flip_channel_order"))  # only MobileViT's processor does, which never normalises
    mean, std = _triple(value("image_mean")), _triple(value("image_std"))
    if bgr or not value("do_normalize", otherwise=True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = value("rescale_factor", otherwise=1 / 255) if value("do_rescale", otherwise=True) else 1.0
    scale = 1.0 if math.isclose(255 * factor, 1) else 255 * factor
    return _scaled(mean, 1 / scale), _scaled(std, 1 / scale), bgr


def _scaled(values: _Triple | None, factor: float) -> _Triple | None:
    return values and (values[0] * factor, values[1] * factor, values[2] * factor)


def _triple(values: Any) -> _Triple | None:
    """Return mean or std from the value in a preprocessor_config.json: three numbers, or one for all bands."""
    if values is None:
        return None
    red, green, blue = values if isinstance(values, list) else [values] * 3
    return float(red), float(green), float(blue)


def _folder(config: str) -> str:
    """Return what transformers' loaders accept: a local folder, or a name on the hub."""
    return str(_copied(config).name) if "://" in config else config


@cache
def _copied(uri: str) -> "tempfile.TemporaryDirectory[str]":
    """Return a local copy of a folder in a store, kept as long as this process lives."""
    folder = tempfile.TemporaryDirectory(prefix="maskmill-")
    place = Path(folder.name)
    for name in FILES:
        if storage.exists(storage.join(uri, name)):
            (place / name).write_bytes(storage.read(storage.join(uri, name)))
    if (place / _INDEX).exists():
        for name in sorted(set(json.loads((place / _INDEX).read_text())["weight_map"].values())):
            (place / Path(name).name).write_bytes(storage.read(storage.join(uri, name)))
    if storage.exists(storage.join(uri, _PICKLE)):
        (place / _PICKLE).touch()  # it is not read
    return folder
