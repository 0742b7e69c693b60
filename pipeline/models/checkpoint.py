"""A trained network in one folder: weights as safetensors, and everything needed to use them as JSON.

<uri>/model.safetensors    the weights; for an exported network its file, model.onnx or model.pt2
<uri>/checkpoint.json      format, network config, label space, preprocessing, sha256 of the weights; written last

A URI that ends in .safetensors is a release file, which contains both: see release_file.py.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch

from pipeline import labels, models, storage
from pipeline.config import ImageConfig, ModelConfig, parse, parse_model
from pipeline.config.train import WEIGHTS_ENDINGS
from pipeline.config.travelling import find_checkpoint
from pipeline.config.user_code import INSTALLED, TRUSTED
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.models import Exported, Network, listing, published_file, release_file
from pipeline.models.exported_file import ENDINGS, WHAT_IT_CAN_DO
from pipeline.models.output_stride import with_output_stride

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A network that is ready to predict, with its label space and training record."""

    model: Network  # in eval mode, on the CPU, with the mean and std of its training
    model_config: ModelConfig
    label_space: LabelSpace
    sha256: str  # of the weights file
    info: dict[str, Any]  # how it was trained: epoch, metrics
    image: ImageConfig | None = None  # bands and range of the training images; None = 8-bit RGB pictures
    others: "tuple[Checkpoint, ...]" = ()  # the other members of an ensemble, with the same label space and image
    quantised: bytes | None = None  # the int8 network, as ONNX, that an engine runs instead of the model

    @property
    def identity(self) -> dict[str, Any]:
        """Return the properties that determine the masks; they are part of the fingerprint of each run that uses it."""
        return {
            "weights_sha256": self.sha256,
            "model": self.model_config.model_dump(mode="json", exclude=set(self.model_config.addresses)),
            "label_space": labels.identity_of(self.label_space),
            "mean": list(self.model.mean),
            "std": list(self.model.std),
            **_declared(self.image),
            **_members(self.others),
            **({} if self.quantised is None else {"quantised_sha256": hashlib.sha256(self.quantised).hexdigest()}),
        }


def save(
    uri: str,
    model: Network,
    cfg: ModelConfig,
    space: LabelSpace,
    info: dict[str, Any],
    image: ImageConfig | None = None,
    weights: bytes | None = None,
) -> None:
    """Write weights and description. A reader sees the old checkpoint or the new one, or gets an error that they do not match.

    Args:
        weights: the file of an exported network; absent: the model's own weights, as safetensors.
    """
    if weights is None:
        weights = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()})
    description = {
        "format": FORMAT,
        "model": models.settled(cfg).model_dump(mode="json"),
        "label_space": space.to_section(),
        "mean": list(model.mean),
        "std": list(model.std),
        **_declared(image),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "info": info,
    }
    storage.put(storage.join(uri, _weights_file(cfg)), weights)
    storage.put(storage.join(uri, "checkpoint.json"), json.dumps(description, indent=2).encode())


def load(uri: str, code: str | None = None, output_stride: int | None = None) -> Checkpoint:
    """Load the checkpoint at a URI, which is a folder or a release file.

    Args:
        code: folder of code that may run if the network is a user's own Python code; "installed" for an installed module. A
            checkpoint can name any function and arguments, so none runs unless the user allows it.
        output_stride: output stride of the network to build, instead of the trained one, which `model_config` keeps.
    Raises:
        UserError: there is no checkpoint, it has another format, its weights are damaged or do not fit its network, or its
            network does not have this output stride.
    """
    uri = find_checkpoint(uri)
    description = describe(uri)
    cfg = parse_model(description["model"], where=f"checkpoint {uri}, model")
    weights = read_weights(uri, description)
    if _of_another_resnet(description):
        raise UserError(
            f"checkpoint {uri}: the released DeepLab v2's weights, imported by a version that put them into another ResNet "
            f"than their own, so that its masks are wrong; run maskmill import-weights again on {description['info']['source']}"
        )
    if cfg.name == "python":
        if code is None:
            raise UserError(
                f"checkpoint {uri}: its network is Python code, {cfg.build}, which runs on this machine; if you trust it, name "
                f"the folder that holds it, `code: FOLDER`, or `code: {INSTALLED}` where it is installed"
            )
        cfg = cfg.model_copy(update={"path": None if code == INSTALLED else code})
    if cfg.name == "exported" and cfg.form in WHAT_IT_CAN_DO and code != TRUSTED:
        raise UserError(
            f"checkpoint {uri}: its network is {WHAT_IT_CAN_DO[cfg.form]}; if you trust whoever made it, set `code: {TRUSTED}`"
        )
    space, image = _space(uri, description), _image(description, uri)
    built = cfg if output_stride is None else with_output_stride(cfg, output_stride, where=f"checkpoint {uri}")
    model = models.build(built, space.num_classes, bands=3 if image is None else len(image.bands))
    if isinstance(model, Exported):
        model.open(weights, where=f"checkpoint {uri}")
    else:
        load_weights(model, weights, where=f"checkpoint {uri}")
        _check_finite(model, uri)
    model.mean, model.std = tuple(description["mean"]), tuple(description["std"])
    return Checkpoint(
        model=model.eval(),
        model_config=cfg,
        label_space=space,
        sha256=description["weights_sha256"],
        info=description["info"],
        image=image,
    )


def _weights_file(cfg: ModelConfig) -> str:
    """Return the name of the weights file in the folder; an exported network is kept in its own format."""
    return f"model.{ENDINGS[cfg.form]}" if cfg.name == "exported" else "model.safetensors"


def weights_size(uri: str, cfg: ModelConfig) -> int:
    """Return the size of the weights file in bytes."""
    return storage.size(uri if release_file.is_release(uri) else storage.join(uri, _weights_file(cfg)))


def read_weights(uri: str, description: dict[str, Any]) -> bytes:
    """Read the weights that belong to a description; UserError if they are missing, or are others."""
    expected = description["weights_sha256"]
    if release_file.is_release(uri):
        weights = release_file.read_weights(uri)
        if (found := hashlib.sha256(weights).hexdigest()) != expected:
            raise UserError(
                f"checkpoint {uri}: its weights have sha256 {found[:12]}, the file's own description says {expected[:12]}; the "
                "file is damaged: copy it again"
            )
        return weights
    name = _weights_file(parse_model(description["model"], where=f"checkpoint {uri}, model"))
    try:
        weights = storage.read(storage.join(uri, name))
    except FileNotFoundError:
        raise UserError(f"checkpoint {uri}: {name} is missing; copy the whole folder, or train again") from None
    if (found := hashlib.sha256(weights).hexdigest()) != expected:
        raise UserError(
            f"checkpoint {uri}: {name} has sha256 {found[:12]}, checkpoint.json says {expected[:12]}; the file is damaged or "
            "from another checkpoint: copy the folder again"
        )
    return weights


def label_space_of(uri: str) -> LabelSpace:
    """Return the label space of a checkpoint, without reading its weights."""
    return _space(uri, describe(uri))


def _space(uri: str, description: dict[str, Any]) -> LabelSpace:
    return labels.from_section(description["label_space"], where=f"checkpoint {uri}, label_space")


def image_of(uri: str) -> ImageConfig | None:
    """Return the bands and range of a checkpoint's training images, without reading its weights."""
    return _image(describe(uri), uri)


def _image(description: dict[str, Any], uri: str) -> ImageConfig | None:
    values = description.get("image")
    return None if values is None else parse(ImageConfig, values, where=f"checkpoint {uri}, image")


def _declared(image: ImageConfig | None) -> dict[str, Any]:
    """Return the section as a key to add; no key if nothing is declared, so that older descriptions and fingerprints hold."""
    return {} if image is None else {"image": image.model_dump(mode="json")}


def _members(others: tuple[Checkpoint, ...]) -> dict[str, Any]:
    """Return, for each other member of an ensemble, the properties that determine the masks and are not common to all."""
    shared = ("label_space", "image")
    each = {str(n): other.identity for n, other in enumerate(others, start=2)}
    members = {n: {key: value for key, value in one.items() if key not in shared} for n, one in each.items()}
    return {"members": members} if members else {}


def import_published(source: str, cfg: ModelConfig, space: LabelSpace, output: str) -> str:
    """Turn a published .pth file into a checkpoint; return the file's sha256, which the checkpoint records.

    Args:
        source: path or URI of the file: a dict of tensors, or one below a key such as state_dict or model.
        output: URI of the checkpoint's folder.
    Raises:
        UserError: the file does not exist, is not a file of weights, or belongs to another network (differences are listed).
    """
    tensors, sha256 = published_file.read(source)
    try:
        cfg = models.published_config(tensors, cfg)
        network = models.build(cfg, space.num_classes)
        published = models.published_weights(tensors, network)
    except UserError as error:
        fits = listing.fitting(tensors, space.num_classes)
        raise UserError(f"weights {source}: {error}{f'; {fits}' if fits else ''}") from None
    network.load_state_dict(published.state)
    network.mean, network.std = published.mean or network.mean, published.std or network.std
    save(output, network, cfg, space, {"source": storage.absolute(source), "source_sha256": sha256})
    return sha256


def load_weights(model: Network, weights: bytes, where: str) -> None:
    """Load the bytes of a safetensors file into a network; UserError if they are unreadable or belong to another network."""
    try:
        state = safetensors.torch.load(weights)
    except safetensors.SafetensorError as error:
        raise UserError(f"{where}: the weights are not a readable safetensors file ({error}); copy it again") from None
    expected = model.state_dict()
    wrong = [
        *(f"missing {key}" for key in expected.keys() - state.keys()),
        *(f"unexpected {key}" for key in state.keys() - expected.keys()),
        *(
            f"{key} is {tuple(state[key].shape)}, the network's is {tuple(expected[key].shape)}"
            for key in expected.keys() & state.keys()
            if state[key].shape != expected[key].shape
        ),
    ]
    if wrong:
        raise UserError(
            f"{where}: the weights are of another network: {len(wrong)} differences, first: {sorted(wrong)[0]}"
        )
    with torch.no_grad():
        model.load_state_dict(state)


def _check_finite(model: Network, uri: str) -> None:
    """Raise UserError if weights are NaN or infinite, since every image would be rejected."""
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(
            f"checkpoint {uri}: {len(broken)} of its tensors hold NaN or infinity, first {broken[0]}, so that it answers no "
            "image; take an earlier checkpoint, or train again with a lower learning rate"
        )


def _of_another_resnet(description: dict[str, Any]) -> bool:
    """Whether the checkpoint is a DeepLab v2 import that was made before the network could have the release's ResNet."""
    model, imported = description["model"], "source_sha256" in description["info"]
    of_caffe = min(description["std"]) < 1 / 200  # Caffe's networks have 1/255, ImageNet's are above 0.2
    return imported and of_caffe and model.get("name") == "deeplabv2" and "resnet" not in model


def describe(uri: str) -> dict[str, Any]:
    """Return the description of a checkpoint, without reading its weights; UserError if there is no readable one."""
    description = release_file.read_head(uri).description if release_file.is_release(uri) else _read_description(uri)
    if (found := description["format"]) != FORMAT:
        raise UserError(
            f"checkpoint {uri}: format {found}, this version reads {FORMAT}; train again or use its version"
        )
    return description


def _read_description(uri: str) -> dict[str, Any]:
    """Return the object in checkpoint.json, after checking that it has a format."""
    text = _read_json(uri)
    try:
        description: dict[str, Any] = json.loads(text)
        description["format"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"checkpoint {uri}: checkpoint.json is not readable; copy the folder again") from None
    return description


def _read_json(uri: str) -> bytes:
    """Return the text of checkpoint.json; if there is none, UserError says what is there instead."""
    try:
        return storage.read(storage.join(uri, "checkpoint.json"))
    except (FileNotFoundError, NotADirectoryError):
        if uri.endswith((".onnx", ".pt2")):
            raise UserError(
                f"checkpoint {uri}: an exported file, and a checkpoint is a folder; turn it into one with `maskmill "
                f"import-model {uri} --label-space NAME --output FOLDER`, and give that folder"
            ) from None
        if uri.endswith(WEIGHTS_ENDINGS) or storage.is_file(uri):
            raise UserError(
                f"checkpoint {uri}: a file, and a checkpoint is a folder; turn published weights into one with `maskmill "
                f"import-weights {uri} --model NAME --output FOLDER`, and give that folder"
            ) from None
        raise UserError(
            f"checkpoint {uri}: no checkpoint.json there; give the folder that `maskmill train` wrote, e.g. <output>/best"
        ) from None
