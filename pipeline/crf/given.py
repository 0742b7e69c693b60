"""Check and convert the arguments of the dense CRF; each error message names the argument."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pipeline.crf.cpu.lattice import MOST_AXES, check_reach
from pipeline.errors import UserError

_MOST_COMPAT = 1e30  # times the pixels of the largest image, below float32's 3.4e38: messages stay finite


def array_of(given: Any, name: str) -> np.ndarray:
    """Return a numpy array of real numbers, from an array of any library that numpy can convert."""
    if not hasattr(given, "__array__"):
        raise UserError(f"dense CRF: {name} are of type {type(given).__name__}; give an array (np.asarray makes one)")
    array = np.asarray(given)
    if array.dtype.kind not in "biuf":
        raise UserError(f"dense CRF: {name} are {array.dtype}; they must be real numbers")
    return array


def float32_of(array: np.ndarray) -> np.ndarray:
    """Return a contiguous float32 array; values out of range become infinite, which later checks refuse."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def image_of(given: Any, height: int, width: int, num_classes: int) -> np.ndarray:
    """Return an image as a contiguous (H, W, D) uint8 array; its height and width must be those of the unary."""
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
    """Return `count` standard deviations from one number for all axes, or a tuple; they must be above 0 in float32 too."""
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
    """Return a compatibility as float32: a () Potts weight or (C, C) energies, into which (C,) energies are expanded."""
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise UserError(f"dense CRF: the compatibility is not an array: {error}") from error
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
    """Return (C,) float32 weights in the order of `classes`, 1 for classes without a weight; None if no class has a weight.

    Raises:
        UserError: a weight is given for a name that is not in `classes`.
    """
    if unknown := [name for name in given if name not in classes]:
        raise UserError(
            f"crf.class_weights: there is no class '{unknown[0]}'; the classes are {', '.join(classes) or 'not known here'}"
        )
    return np.array([given.get(name, 1) for name in classes], np.float32) if given else None


def check_class_weights(weights: np.ndarray, num_classes: int, largest: float) -> None:
    """Raise UserError unless there is one weight >= 0 per class, whose product with the largest compatibility fits float32."""
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
    """Raise UserError if float32 is too coarse for positions and colours from 0 to `most`, divided by the axes' widths."""
    with np.errstate(over="ignore", under="ignore"):
        ends = np.array([(0, one) for one in most], np.float32) / np.array(widths, np.float32)[:, None]
    check_reach(ends)


def check_axes(count: int) -> None:
    """Raise UserError if a kernel has more feature axes than the key of a vertex can hold."""
    if count > MOST_AXES:
        raise UserError(f"dense CRF: a kernel has {count} feature axes; at most {MOST_AXES} fit a key of the lattice")


def check_whole(given: Any, name: str, at_least: int) -> None:
    """Raise UserError unless the value is a whole number of at least `at_least`."""
    if not isinstance(given, Integral) or given < at_least:
        raise UserError(f"dense CRF: {name} is {given!r}; it must be {at_least} or more, a whole number")
