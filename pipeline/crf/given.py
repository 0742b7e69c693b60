"""What a caller gives, held to what the dense CRF can work with: each refusal is a sentence that names the argument."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pipeline.crf.cpu.lattice import MOST_AXES, check_reach
from pipeline.errors import UserError

_MOST_COMPAT = 1e30  # times the pixels of the largest image it is below float32's 3.4e38: no message is infinite


def array_of(given: Any, name: str) -> np.ndarray:
    """An array of real numbers, from an array of any library that numpy understands."""
    if not hasattr(given, "__array__"):
        raise UserError(f"dense CRF: {name} are of type {type(given).__name__}; give an array (np.asarray makes one)")
    array = np.asarray(given)
    if array.dtype.kind not in "biuf":
        raise UserError(f"dense CRF: {name} are {array.dtype}; they must be real numbers")
    return array


def float32_of(array: np.ndarray) -> np.ndarray:
    """Contiguous float32; what does not fit becomes infinite, and is refused as such."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def image_of(given: Any, height: int, width: int, num_classes: int) -> np.ndarray:
    """(H, W, D) uint8, of the unary's size."""
    image = array_of(given, "the image's pixels")
    if image.ndim != 3 or image.shape[:2] != (height, width):
        raise UserError(
            f"dense CRF: the image is {image.shape}, the unary {(num_classes, height, width)}; "
            "they must be (H, W, colours) and (C, H, W)"
        )
    if image.dtype != np.uint8:
        raise UserError(f"dense CRF: the image is {image.dtype}; give the uint8 pixels, before normalisation")
    return np.ascontiguousarray(image)


def widths_of(given: Any, count: int, name: str) -> tuple[float, ...]:
    """Standard deviations: one number for all axes, or a tuple of one each, above 0 in float32 too."""
    widths = tuple(given) if isinstance(given, tuple | list) else (given,) * count
    if len(widths) != count or not all(isinstance(width, Real) and _is_width(width) for width in widths):
        raise UserError(
            f"dense CRF: {name} is {given!r}; it must be one positive number that float32 holds, or a tuple of {count}"
        )
    return tuple(float(width) for width in widths)


def _is_width(width: Real) -> bool:
    try:
        with np.errstate(over="ignore", under="ignore"):
            return bool(0 < np.float32(width) < np.inf)
    except OverflowError:  # an int of hundreds of digits
        return False


def compat_of(given: ArrayLike, num_classes: int) -> np.ndarray:
    """() Potts weight or (C, C) energies, float32."""
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise UserError(f"dense CRF: the compatibility is no array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"dense CRF: the compatibility is {array.dtype}; it must be real numbers")
    if array.shape not in ((), (num_classes,), (num_classes, num_classes)):
        raise UserError(
            f"dense CRF: the compatibility is {array.shape}; it must be a number, ({num_classes},) or "
            f"({num_classes}, {num_classes})"
        )
    if not np.isfinite(array).all():
        raise UserError("dense CRF: the compatibility holds NaN or infinity")
    if np.abs(array).max() > _MOST_COMPAT:
        raise UserError(
            f"dense CRF: the compatibility reaches {np.abs(array).max():.3g}; at most {_MOST_COMPAT:.0e} fits float32 "
            "times the number of pixels"
        )
    compat = array.astype(np.float32)
    return np.diag(compat) if compat.ndim == 1 else compat


def class_weights_of(given: Mapping[str, float], classes: Sequence[str]) -> np.ndarray | None:
    """(C,) float32, a weight for each class of `classes`, 1 where none is given; None where none is given at all.

    Raises:
        UserError: a name is no class.
    """
    if unknown := [name for name in given if name not in classes]:
        raise UserError(
            f"crf.class_weights: there is no class '{unknown[0]}'; the classes are {', '.join(classes) or 'not known here'}"
        )
    return np.array([given.get(name, 1) for name in classes], np.float32) if given else None


def check_class_weights(weights: np.ndarray, num_classes: int, largest: float) -> None:
    """Raise UserError where they are not one number of 0 or more a class, or too large beside the largest compatibility."""
    if weights.shape != (num_classes,):
        raise UserError(f"dense CRF: the class weights are {weights.shape}; they must be ({num_classes},), one a class")
    if not (weights >= 0).all() or not np.isfinite(weights).all():
        raise UserError("dense CRF: the class weights hold NaN, infinity or negative values; they must be 0 or more")
    if largest * float(weights.max()) > _MOST_COMPAT:
        raise UserError(
            f"dense CRF: class weights up to {weights.max():.3g} times a compatibility of {largest:.3g} are above "
            f"{_MOST_COMPAT:.0e}, the most that fits float32 times the number of pixels"
        )


def check_grid(most: tuple[int, ...], widths: tuple[float, ...]) -> None:
    """Raise UserError where float32 is too coarse for places and colours from 0 to `most` over their widths, axis by axis."""
    with np.errstate(over="ignore", under="ignore"):
        ends = np.array([(0, one) for one in most], np.float32) / np.array(widths, np.float32)[:, None]
    check_reach(ends)


def check_axes(count: int) -> None:
    """Raise UserError where there are more feature axes than a vertex's key has room for."""
    if count > MOST_AXES:
        raise UserError(f"dense CRF: a kernel has {count} feature axes; at most {MOST_AXES} fit a key of the lattice")


def check_whole(given: Any, name: str, at_least: int) -> None:
    """Raise UserError where it is not a whole number from `at_least` on."""
    if not isinstance(given, Integral) or given < at_least:
        raise UserError(f"dense CRF: {name} is {given!r}; it must be {at_least} or more, a whole number")
