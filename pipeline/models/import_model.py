"""Import of an exported file: what it does not declare is found out by running it. C classes, H rows, W columns."""

import hashlib
from dataclasses import dataclass

import torch

from pipeline import storage
from pipeline.config.models import ExportedConfig, ExportedForm, Layout, Scores
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.models import checkpoint, onnx_file
from pipeline.models.base import Levels
from pipeline.models.exported import Exported
from pipeline.models.exported_file import KINDS, WHAT_IT_CAN_DO, ExportedFile, form_of
from pipeline.models.outside import words

BANDS = 3
STEPS = (1, 2, 4, 8, 16, 32, 64)  # pixels, of which the sides of an image may have to be a multiple
PROBE_PX = 128  # least side of the images on which a network is tried
LEAST_PX = (32, 64)  # sides that are tried as the smallest ones
AS_IT_IS: tuple[Levels, Levels] = (
    (0.0,) * BANDS,
    (1 / 255,) * BANDS,
)  # mean and std that keep pixels as levels of 0 to 255


@dataclass(frozen=True)
class Wanted:
    """What the user declares about a file; None: it is read from the file, or found by running it."""

    mean: Levels | None = None  # of red, green and blue, on a scale of 0 to 1
    std: Levels | None = None
    layout: Layout | None = None
    size: tuple[int, int] | None = None  # (height, width), pixels
    output: str | None = None
    scores: Scores | None = None
    trust: bool = False  # whether code in the file may run


@dataclass(frozen=True)
class Imported:
    """A checkpoint that was made from a file."""

    cfg: ExportedConfig
    sha256: str  # of the checkpoint's file, which equals the source's if that contains all of its tensors

    @property
    def words(self) -> str:
        """A description for users."""
        cfg = self.cfg
        gives = {"logits": "logits", "probs": "probabilities", "ids": "class ids"}[cfg.scores]
        parts = [
            f"{cfg.form}, {cfg.dtype} {cfg.layout} -> {gives}" + (f" at stride {cfg.stride}" if cfg.stride > 1 else "")
        ]
        if cfg.size is not None:
            height, width = cfg.size
            parts.append(f"of {height}x{width} pixels alone, so that larger images are predicted in tiles of it")
        else:
            multiples = f"multiples of {cfg.multiple_of} " if cfg.multiple_of > 1 else ""
            parts.append(f"of any size, {multiples}from {cfg.min_size} pixels on")
        if cfg.batch is not None:
            parts.append(f"batches of {cfg.batch}")
        if cfg.scores == "ids":
            parts.append("which leaves no scores for a CRF, calibration, an ensemble, entropy or confidence")
        return ", ".join(parts)


def import_model(source: str, wanted: Wanted, space: LabelSpace, output: str) -> Imported:
    """Turn an exported network into a checkpoint.

    Raises:
        UserError: the file cannot be read or is not trusted, or its network does not take images or does not output scores of
            these classes; the message says what to set.
    """
    try:
        data = storage.read(source)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"model {source}: no such file; give an .onnx or .pt2 file") from None
    where, form = f"model {source}", form_of(data)
    if form in WHAT_IT_CAN_DO and not wanted.trust:
        raise UserError(
            f"{where}: {WHAT_IT_CAN_DO[form]}; give --trust if you trust whoever made it, or an ONNX file, which is data alone"
        )
    source_sha256 = hashlib.sha256(data).hexdigest()
    data = onnx_file.taken_in(data, source) if form == "onnx" else data
    file = KINDS[form](data, where)
    cfg = _declared(file, form, wanted, where)
    mean, std = _normalisation(cfg, wanted, where)
    network = _Trial(file, mean, std, space, where).settled(cfg, wanted.scores)
    info = {"source": storage.absolute(source), "source_sha256": source_sha256}
    checkpoint.save(output, network, network.cfg, space, info, weights=data)
    return Imported(network.cfg, hashlib.sha256(data).hexdigest())


def _declared(file: ExportedFile, form: ExportedForm, wanted: Wanted, where: str) -> ExportedConfig:
    """Return the config as far as the file's input declares it, with the user's values for what it leaves open."""
    shape, dtype = file.port.shape, file.port.dtype or "float32"
    if form == "onnx" and shape is None:
        raise UserError(
            f"{where}: its input does not say how many dimensions it has; export it with an input of four, batch, channels, "
            "height and width"
        )
    if dtype not in ("float32", "float16", "uint8"):
        raise UserError(
            f"{where}: its input has type {dtype}; float32, float16 and uint8 are supported: export it with one of these"
        )
    shape = shape or (None,) * 4
    if len(shape) != 4:
        raise UserError(
            f"{where}: its input has {len(shape)} dimensions, {_shape_words(shape)}; it must have four: batch, channels, "
            "height and width"
        )
    layout = wanted.layout or ("NHWC" if shape[3] == BANDS and shape[1] != BANDS else "NCHW")
    order = (0, 1, 2, 3) if layout == "NCHW" else (0, 3, 1, 2)
    batch, channels, height, width = (shape[place] for place in order)
    if channels not in (None, BANDS):
        other = "NHWC" if layout == "NCHW" else "NCHW"
        hint = f"give --layout {other}" if BANDS in shape[1:] else "only networks for red, green and blue are imported"
        raise UserError(f"{where}: its input {_shape_words(shape)} has {channels} channels as {layout}; {hint}")
    size = _size(height, width, wanted.size, where)
    values = {
        "form": form,
        "dtype": dtype,
        "layout": layout,
        "size": size,
        "batch": batch,
        "output": wanted.output or "",
    }
    return ExportedConfig.model_validate({"name": "exported", **values})


def _size(height: int | None, width: int | None, wanted: tuple[int, int] | None, where: str) -> tuple[int, int] | None:
    """Return the only size that the network accepts; None: any."""
    if wanted is None and (height is None) != (width is None):
        raise UserError(f"{where}: its input is {height or 'any'} x {width or 'any'}; give the whole, --input-size HxW")
    if wanted is not None and any(one not in (None, two) for one, two in zip((height, width), wanted, strict=True)):
        raise UserError(
            f"{where}: its input is {height or 'any'}x{width or 'any'} pixels (height x width), and --input-size says "
            f"{wanted[0]}x{wanted[1]}; leave it out"
        )
    return wanted or (None if height is None or width is None else (height, width))


def _normalisation(cfg: ExportedConfig, wanted: Wanted, where: str) -> tuple[Levels, Levels]:
    """Return mean and std of red, green and blue; UserError if the user has to give them."""
    if cfg.dtype == "uint8":
        if (wanted.mean or AS_IT_IS[0], wanted.std or AS_IT_IS[1]) != AS_IT_IS:
            raise UserError(f"{where}: its input is uint8, so it takes pixels as they are; leave --mean and --std out")
        return AS_IT_IS
    if wanted.mean is None or wanted.std is None:
        raise UserError(
            f"{where}: the file does not say how its network wants pixels; give --mean and --std, of values of 0 to 1: "
            "ImageNet's are 0.485,0.456,0.406 and 0.229,0.224,0.225; 0,0,0 and 1,1,1 leave them as they are; 0,0,0 and "
            "1/255,1/255,1/255 make levels of 0 to 255"
        )
    return wanted.mean, wanted.std


class _Unfit(UserError):
    """The network does not accept an image of this size, but may accept another."""


@dataclass(frozen=True)
class _Trial:
    """A file that is run on images of noise, to find out what it accepts and returns."""

    file: ExportedFile
    mean: Levels
    std: Levels
    space: LabelSpace
    where: str

    def settled(self, cfg: ExportedConfig, scores: Scores | None) -> Exported:
        """Return the network with all that was found out."""
        cfg = self._at_any_size(cfg, scores) if cfg.size is None else self._understood(cfg, cfg.size, scores)
        size = cfg.size or self.network(cfg).legal_size(PROBE_PX, PROBE_PX)
        if cfg.batch is None and not self._takes_batches(cfg, size):
            cfg = cfg.model_copy(update={"batch": 1})
        network = self.network(cfg)
        with torch.inference_mode():
            network(self._noise(network, size))
        return network

    def network(self, cfg: ExportedConfig) -> Exported:
        network = Exported(cfg, self.space.num_classes).eval()
        network.mean, network.std = self.mean, self.std
        network.use(self.file, self.where)
        return network

    def _at_any_size(self, cfg: ExportedConfig, scores: Scores | None) -> ExportedConfig:
        """Return the config with the smallest step and the smallest size that work."""
        for step in STEPS:
            odd = PROBE_PX // step | 1  # an odd multiple of a step is not a multiple of a larger step
            size = (odd * step, (odd + 2) * step)
            try:
                found = self._understood(cfg, size, scores)
                break
            except _Unfit:
                if step == STEPS[-1]:
                    raise
        for least in (-(-side // step) * step for side in LEAST_PX):
            try:
                if self._understood(cfg, (least, least), found.scores).stride == found.stride:
                    break
            except _Unfit:
                continue
        else:
            least = size[0]
        return found.model_copy(update={"multiple_of": step, "min_size": least})

    def _understood(self, cfg: ExportedConfig, size: tuple[int, int], scores: Scores | None) -> ExportedConfig:
        """Return the config with what the output for an image of this size shows.

        Raises:
            _Unfit: the network fails on this size, or the output's size does not divide it.
            UserError: the output is not scores, or has a wrong number of classes.
        """
        raw = self._raw(cfg, size)
        scores = scores or self._kind(raw)
        layout, (height, width) = self._layout(raw, scores, size)
        if size[0] % height or size[1] % width or size[0] // height != size[1] // width:
            raise _Unfit(
                f"{self.where}: the scores of an image of {size[0]}x{size[1]} pixels are {height}x{width}; they must be as "
                "large, or smaller by one whole number: export the network so that it keeps the edges of its images"
            )
        return cfg.model_copy(update={"scores": scores, "scores_layout": layout, "stride": size[0] // height})

    def _kind(self, raw: torch.Tensor) -> Scores:
        """Return the kind of output: ids without a class dimension, probabilities if positive with sums of 1 over classes."""
        if raw.ndim == 3 or (raw.ndim == 4 and 1 in (raw.shape[1], raw.shape[3])):
            return "ids"
        for axis in (1, 3):
            if raw.ndim == 4 and raw.shape[axis] == self.space.num_classes and float(raw.float().min()) >= 0:
                sums = raw.float().sum(dim=axis)
                if float((sums - 1).abs().max()) < 0.01:
                    return "probs"
        return "logits"

    def _layout(self, raw: torch.Tensor, scores: Scores, size: tuple[int, int]) -> tuple[Layout, tuple[int, int]]:
        """Return the order of the output's dimensions, and (height, width) of its scores."""
        classes = self.space.num_classes
        if scores == "ids" and raw.ndim == 3:
            return self._checked_ids(raw, "NCHW", (raw.shape[1], raw.shape[2]))
        places: list[tuple[Layout, tuple[int, int]]] = []
        if raw.ndim == 4:
            wanted = 1 if scores == "ids" else classes
            if raw.shape[1] == wanted:
                places.append(("NCHW", (raw.shape[2], raw.shape[3])))
            if raw.shape[3] == wanted:
                places.append(("NHWC", (raw.shape[1], raw.shape[2])))
        if not places:
            raise UserError(
                f"{self.where}: its output is {_shape_words(tuple(raw.shape))} for an image of {size[0]}x{size[1]} pixels, and "
                f"'{self.space.name}' has {classes} classes; give --label-space with the network's own classes, or "
                "--output-name if it has another output"
            )
        layout, found = max(places, key=lambda place: place[1][0] * size[1] == place[1][1] * size[0])
        return self._checked_ids(raw, layout, found) if scores == "ids" else (layout, found)

    def _checked_ids(self, raw: torch.Tensor, layout: Layout, size: tuple[int, int]) -> tuple[Layout, tuple[int, int]]:
        low, high = float(raw.min()), float(raw.max())
        if not (raw == raw.round()).all() or low < 0 or high >= self.space.num_classes:
            raise UserError(
                f"{self.where}: its output has no dimension of classes and values of {low:g} to {high:g}; numbers of the "
                f"classes of '{self.space.name}', 0 to {self.space.num_classes - 1}, are expected there"
            )
        return layout, size

    def _raw(self, cfg: ExportedConfig, size: tuple[int, int], images: int = 1) -> torch.Tensor:
        network = self.network(cfg)
        x = torch.cat([self._noise(network, size, seed) for seed in range(images)])
        try:
            with torch.inference_mode():
                found = network.raw(x)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            raise _Unfit(
                f"{self.where}: its network fails on an image of {size[0]}x{size[1]} pixels ({words(error)}); if it takes one "
                "size alone, give --input-size HxW"
            ) from error
        found = found.byte() if found.dtype == torch.bool else found  # class ids of a comparison
        if not torch.isfinite(found.float()).all():
            raise UserError(
                f"{self.where}: its output for a noise image contains NaN or infinity; check that --mean and --std are those "
                "of its training, or export it again"
            )
        return found

    def _takes_batches(self, cfg: ExportedConfig, size: tuple[int, int]) -> bool:
        """Whether a batch of two images gives the same results as each alone; many files are exported for one image."""
        alone = self._raw(cfg, size)
        try:
            both = self._raw(cfg, size, images=2)
        except _Unfit:
            return False
        same = (both[:1] - alone).abs().float() <= 1e-3 * alone.abs().float().max()
        return both.shape[0] == 2 and float(same.float().mean()) > 0.999

    def _noise(self, network: Exported, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return network.normalise(torch.randint(0, 256, (1, BANDS, *size), dtype=torch.uint8, generator=generator))


def _shape_words(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
