"""The dense CRF as a class: a unary, any number of kernels, and inference."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from pipeline.crf.cpu.fast import fast_mean_field
from pipeline.crf.cpu.features import image_features, ordered_features, tile_order
from pipeline.crf.cpu.general import general_mean_field
from pipeline.crf.cpu.lattice import build_lattice, check_reach
from pipeline.crf.cpu.mean_field import mean_field, non_finite
from pipeline.crf.cpu.points import join
from pipeline.crf.cpu.threads import Team
from pipeline.crf.given import (
    array_of,
    check_axes,
    check_class_weights,
    check_grid,
    check_whole,
    compat_of,
    float32_of,
    image_of,
    widths_of,
)
from pipeline.errors import UserError

Normalisation = Literal["symmetric", "before", "after", "none"]
Mode = Literal["exact", "fast"]


@dataclass(frozen=True)
class _Kernel:
    """One Gaussian kernel: how it compares pixels, its compatibility between classes, and its normalisation."""

    compat: np.ndarray  # () Potts weight, or (C, C) energies
    normalisation: Normalisation
    image: np.ndarray | None  # (H, W, D) uint8; None if `features` are given
    features: np.ndarray | None  # (P, d) float32; None if an image is given
    px: tuple[float, ...] = (1.0, 1.0)
    levels: tuple[float, ...] = ()

    @property
    def is_fused(self) -> bool:
        """Whether the kernel's factors can be multiplied into the lattice's weights."""
        return self.compat.ndim == 0 and bool(self.compat > 0) and self.normalisation in ("symmetric", "none")

    def place(self, team: Team, order: np.ndarray) -> np.ndarray:
        """Return the features (d, P + padding) float32 of the pixels in this order."""
        if self.features is not None:
            return ordered_features(team, order, self.features)
        assert self.image is not None
        return image_features(team, order, self.image, self.px, self.levels)


class DenseCRF:
    """A fully connected CRF over the pixels of one image, solved by mean field (Krahenbuhl & Koltun 2011, arXiv:1210.5644).

    A kernel's compatibility is a number w (Potts model: energy -w for equal classes), (C,) energies of equal classes, or (C, C)
    energies of pairs, used as given, where the row is the pixel's own class. Normalisations are those of the authors' code: by
    1 / sqrt(K 1) before and after filtering ("symmetric"), by 1 / K 1 before it ("before") or after it ("after"), or "none".
    """

    def __init__(self, energies: np.ndarray) -> None:
        """Make a CRF with (C, H, W) unary energies: -log of the probabilities, plus any constant per pixel."""
        self._set_unary(energies, "energies", are_probs=False)

    @classmethod
    def from_probs(cls, probs: np.ndarray) -> "DenseCRF":
        """Return a CRF with (C, H, W) probabilities, clipped to at least 1e-5, as its unary."""
        crf = cls.__new__(cls)
        crf._set_unary(probs, "probs", are_probs=True)
        return crf

    @classmethod
    def from_labels(
        cls, labels: np.ndarray, num_classes: int, certainty: float, unsure: int | None = None
    ) -> "DenseCRF":
        """Return a CRF with a label map (H, W): the label has probability `certainty`, the other classes share the rest.

        Args:
            unsure: label of pixels whose class is unknown. With 0, classes are numbered from 1; other values are not classes.
        """
        labels = np.asarray(labels)
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise UserError(f"dense CRF: labels are {labels.shape} {labels.dtype}; they must be (H, W) integers")
        check_whole(num_classes, "num_classes", at_least=1)
        if not isinstance(certainty, Real) or not 0 < certainty < 1 or num_classes < 2:
            raise UserError(
                f"dense CRF: certainty is {certainty} of {num_classes} classes; it must be between 0 and 1, of 2 or more"
            )
        known = np.ones(labels.shape, bool) if unsure is None else labels != unsure
        classes = labels.astype(np.int64) - (unsure == 0)
        if known.any() and not (classes[known].min() >= 0 and classes[known].max() < num_classes):
            raise UserError(
                f"dense CRF: labels reach from {labels.min()} to {labels.max()}, which does not fit {num_classes} classes"
                + ("" if unsure is None else f" and {unsure} for unsure")
            )
        energies = np.full((num_classes, *labels.shape), -np.log((1 - certainty) / (num_classes - 1)), np.float32)
        np.put_along_axis(energies, np.where(known, classes, 0)[None], np.float32(-np.log(certainty)), axis=0)
        energies[:, ~known] = -np.log(1 / num_classes)
        return cls(energies)

    def _set_unary(self, source: np.ndarray, name: str, are_probs: bool) -> None:
        source = array_of(source, name)
        if source.ndim != 3 or 0 in source.shape:
            raise UserError(f"dense CRF: {name} are {source.shape}; they must be (C, H, W)")
        self.num_classes, self.height, self.width = source.shape
        self._source = float32_of(source).reshape(self.num_classes, -1)
        self._are_probs = are_probs
        self._kernels: list[_Kernel] = []
        self._class_weights: np.ndarray | None = None

    def add_gaussian(
        self, px: float | tuple[float, float], compat: ArrayLike, normalisation: Normalisation = "symmetric"
    ) -> None:
        """Add a smoothness kernel: a Gaussian over positions with standard deviation `px` pixels, or (y, x)."""
        self._add_image_kernel(np.empty((self.height, self.width, 0), np.uint8), px, (), compat, normalisation)

    def add_bilateral(
        self,
        image: np.ndarray,
        px: float | tuple[float, float],
        levels: float | tuple[float, ...],
        compat: ArrayLike,
        normalisation: Normalisation = "symmetric",
    ) -> None:
        """Add an appearance kernel: a Gaussian over positions and colours.

        Args:
            image: (H, W, D) uint8, usually RGB: the pixels that the network saw, before normalisation.
            px: standard deviation in pixels, or (y, x). levels: standard deviation in 8-bit levels, or one per channel.
        """
        pixels = image_of(image, self.height, self.width, self.num_classes)
        self._add_image_kernel(pixels, px, levels, compat, normalisation)

    def add_kernel(self, features: np.ndarray, compat: ArrayLike, normalisation: Normalisation = "symmetric") -> None:
        """Add any Gaussian kernel: features (H * W, d), pixels in row order, each axis divided by its standard deviation."""
        features = array_of(features, "features")
        if features.ndim != 2 or features.shape[0] != self.height * self.width or features.shape[1] == 0:
            raise UserError(f"dense CRF: features are {features.shape}; they must be ({self.height * self.width}, d)")
        check_axes(features.shape[1])
        points = float32_of(features)
        if not np.isfinite(points).all():
            raise UserError("dense CRF: features hold NaN or infinity")
        kernel = _Kernel(compat_of(compat, self.num_classes), _checked(normalisation), None, points)
        if kernel.compat.any():
            check_reach(points.T)
        self._kernels.append(kernel)

    def weigh_classes(self, weights: ArrayLike) -> None:
        """Multiply the message of all kernels for each class by the weight of that class.

        For kernels with a number w as compatibility, this equals the diagonal energies -w * weights, but is as fast as w alone.

        Args:
            weights: (C,) numbers, 0 or more; 1 changes nothing, with 0 only the unary counts for the class.
        """
        self._class_weights = float32_of(array_of(np.asarray(weights), "the class weights"))
        check_class_weights(self._class_weights, self.num_classes, 0)

    def _add_image_kernel(
        self,
        image: np.ndarray,
        px: float | tuple[float, float],
        levels: float | tuple[float, ...],
        compat: ArrayLike,
        normalisation: Normalisation,
    ) -> None:
        """Add a Gaussian over positions and the colours of an image (H, W, D); D may be 0."""
        check_axes(2 + image.shape[2])
        near, deep = widths_of(px, 2, "px"), widths_of(levels, image.shape[2], "levels")
        kernel = _Kernel(compat_of(compat, self.num_classes), _checked(normalisation), image, None, near, deep)
        if kernel.compat.any():
            check_grid((self.width - 1, self.height - 1, *(255 for _ in deep)), (near[1], near[0], *deep))
        self._kernels.append(kernel)

    def inference(self, iterations: int, num_threads: int = 1, mode: Mode = "exact") -> np.ndarray:
        """Return marginals (C, H, W) float32 after `iterations` steps; each step updates all pixels in parallel.

        Args:
            mode: "fast" is an approximation (`CrfConfig.mode`): it merges similar pixels and stops updating those that have
                converged. All kernels must come from `add_gaussian` or `add_bilateral`, with a number above 0 as compatibility
                and the normalisation "symmetric".
        Raises:
            UserError: the unary holds NaN or infinity (or negative probabilities), or the kernels do not allow the fast mode.
        """
        if mode not in get_args(Mode):
            raise UserError(f"dense CRF: mode {mode!r} is none of {', '.join(get_args(Mode))}")
        check_whole(iterations, "iterations", at_least=0)
        check_whole(num_threads, "num_threads", at_least=1)
        kernels = [kernel for kernel in self._kernels if kernel.compat.any()]
        if self._class_weights is not None and kernels:
            largest = max(float(np.abs(kernel.compat).max()) for kernel in kernels)
            check_class_weights(self._class_weights, self.num_classes, largest)
        with Team(num_threads) as team:
            self._check_unary(team)
            if mode == "fast" and kernels:
                marginals = self._fast(team, kernels, iterations)
                return marginals.reshape(self.num_classes, self.height, self.width)
            order = tile_order(self.height, self.width)
            unary = team, self._source, self._are_probs, order
            placed = [kernel.place(team, order) for kernel in kernels]
            if kernels and all(kernel.is_fused for kernel in kernels):
                lattice = build_lattice(team, placed, len(order), fold=_fold(kernels))
                marginals = mean_field(*unary, lattice, iterations, self._class_weights)
            else:
                lattices = [build_lattice(team, [features], len(order)) for features in placed]
                compats = [kernel.compat for kernel in kernels]
                marginals = general_mean_field(
                    *unary, lattices, compats, [k.normalisation for k in kernels], iterations, self._class_weights
                )
        return marginals.reshape(self.num_classes, self.height, self.width)

    def _fast(self, team: Team, kernels: list[_Kernel], iterations: int) -> np.ndarray:
        """Return marginals (C, P) of the fast mode."""
        if not all(k.is_fused and k.image is not None and k.normalisation == "symmetric" for k in kernels):
            raise UserError(
                "dense CRF: the fast mode has kernels of add_gaussian and add_bilateral alone, with a number above 0 as "
                'compatibility and the normalisation "symmetric"; use mode="exact"'
            )
        images = [kernel.image for kernel in kernels if kernel.image is not None]
        points = join(team, self._source, self._are_probs, np.concatenate(images, axis=2))
        counts, source = points.counts(), points.sources(team, self._source)
        placed = [
            points.features(team, image, kernel.px, kernel.levels)
            for image, kernel in zip(images, kernels, strict=True)
        ]
        lattice = build_lattice(team, placed, len(points), most_woven=0, counts=counts, fold=_fold(kernels))
        settled = fast_mean_field(team, source, self._are_probs, lattice, counts, iterations, self._class_weights)
        return points.spread(team, settled)

    def check(self) -> None:
        """Raise UserError if the unary holds NaN, infinity or negative probabilities; `inference` does so too."""
        with Team(1) as team:
            self._check_unary(team)

    def _check_unary(self, team: Team) -> None:
        if non_finite(team, self._source, at_least=0.0 if self._are_probs else -np.inf):
            raise UserError(
                "dense CRF: probs hold NaN, infinity or negative values; give probabilities, not logits"
                if self._are_probs
                else "dense CRF: energies hold NaN or infinity"
            )


def _fold(kernels: Sequence[_Kernel]) -> list[tuple[float, bool]]:
    return [(float(kernel.compat), kernel.normalisation == "symmetric") for kernel in kernels]


def _checked(normalisation: Normalisation) -> Normalisation:
    if normalisation not in get_args(Normalisation):
        raise UserError(f"dense CRF: normalisation {normalisation!r} is none of {', '.join(get_args(Normalisation))}")
    return normalisation
