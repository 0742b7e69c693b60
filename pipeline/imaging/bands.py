"""Read images whose bands and range a config declares: PNG and TIFF of 8 to 64 bits per band, whole or some rows at a time.

rasterio (GDAL) reads them. Decoded values are float32 levels, where 0 and 255 are the low and high end of the declared range,
so that the network's mean and std apply as to 8-bit images; 12-bit values keep their 4096 levels, of which uint8 would leave
256. Pixels that are nodata in a band (the file's nodata value, NaN or infinite) are NaN in every band: the network sees the
mean there, their labels are ignored, and masks have 255.

Letters: H rows, W columns, N bands.
"""

import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np

from pipeline.config import ImageConfig
from pipeline.errors import Reject, UserError
from pipeline.imaging.decode import quoted, require_size

Source = bytes | Callable[[], io.RawIOBase]  # a whole file, or a function that opens it for range reads
_DRIVERS = {b"\x89PNG": "PNG", b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff"}
_CACHE_BYTES = 32 << 20  # GDAL's cache of decoded blocks, shared by all threads of the process
_CHUNK_PX = 512  # least side of the area that is read at once, rounded up to whole blocks of the file
_PURE_DIGITS = "biuf"  # kinds of numpy types that can be levels, which excludes complex numbers


def require_rasterio() -> Any:
    """Return the module rasterio, or raise a UserError that says how to install it."""
    try:
        import rasterio
        import rasterio.crs
        import rasterio.errors
        import rasterio.io
        import rasterio.session
        import rasterio.windows
    except ImportError as error:
        raise UserError(
            f"images with declared bands and GeoTIFFs are read by rasterio ({error}); run: pip install 'maskmill[geo]', on "
            "every node"
        ) from None
    return rasterio


def decode_bands(source: Source, declared: ImageConfig, max_pixels: int) -> tuple[np.ndarray, str | None]:
    """Return (H, W, N) float32 levels, NaN where there is no data, in the stored orientation; and the file's georeference.

    Raises:
        Reject: as in `Windows`.
    """
    with Windows(source, max_pixels, declared) as windows:
        levels = np.empty((windows.height, windows.width, len(declared.bands)), np.float32)
        for top, rows in windows.chunks():
            levels[top : top + len(rows)] = rows
        return levels, windows.georeference


def decode_picture(source: Source, declared: ImageConfig, max_pixels: int) -> np.ndarray:
    """Return `as_picture` of an image, (H, W, 3) uint8, without all its levels in memory at once; Reject as in `Windows`."""
    with Windows(source, max_pixels, declared) as windows:
        picture = np.empty((windows.height, windows.width, 3), np.uint8)
        for top, rows in windows.chunks():
            picture[top : top + len(rows)] = as_picture(rows)
        return picture


def size_of(source: Source) -> tuple[int, int]:
    """Return the (height, width) of a file, from its header."""
    with ExitStack() as stack:
        dataset, _ = _opened(source, stack)
        return dataset.height, dataset.width


def georeference_of(source: Source) -> str | None:
    """Return the georeference of any PNG or TIFF, as `Windows.georeference` does."""
    with ExitStack() as stack:
        return _georeference(_opened(source, stack)[0])


class Windows:
    """An open PNG or TIFF, whose declared bands are read some rows at a time, as stored.

    Args:
        declared: bands and range of an image; None means a label, with one band of 8-bit ids.
    Raises:
        Reject: `not_an_image`, `corrupt`, `too_large`, `missing_band`, `bit_depth`, `unsupported_mode`,
            `label_not_indexed`; `store_error` if the store failed.
        UserError: rasterio is not installed.
    """

    def __init__(self, source: Source, max_pixels: int, declared: ImageConfig | None) -> None:
        with ExitStack() as stack:
            self._dataset, self._failure = _opened(source, stack)
            self.height, self.width = self._dataset.height, self._dataset.width
            require_size(self.height, self.width, max_pixels)
            self._declared = declared
            if declared is None:
                _check_ids(self._dataset)
            else:
                _check_bands(self._dataset, declared)
            self._bands = [1] if declared is None else list(declared.bands)
            self._dtype = np.result_type(*(self._dataset.dtypes[band - 1] for band in self._bands))
            self._nodata = [self._dataset.nodatavals[band - 1] for band in self._bands]
            self._first, self._kept = 0, self._empty(0)
            self._stack = stack.pop_all()

    def __enter__(self) -> "Windows":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Return rows (bottom - top, W, N) as stored, or (bottom - top, W) of a label; `top` and `bottom` may never decrease.

        Raises:
            Reject: `corrupt`, or `store_error`.
        """
        have = self._first + len(self._kept)
        assert self._first <= top <= have <= bottom <= self.height, "rows are read once, from the top down"
        self._kept = self._kept[top - self._first :].copy()  # frees the rows above
        found = self._empty(bottom - top)
        found[: have - top] = self._kept
        block_rows, block_columns = self._dataset.block_shapes[0]
        high, wide = (-(-_CHUNK_PX // side) * side for side in (block_rows, block_columns))
        for first, last in _spans(have, bottom, high):
            for left, right in _spans(0, self.width, wide):
                place = found[first - top : last - top, left:right]
                place[...] = self._read(first, last, left, right).reshape(place.shape)
        self._first, self._kept = top, found
        return found

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows as levels, some at a time: the number of the first row, and (h, W, N) float32."""
        for top in range(0, self.height, _CHUNK_PX):
            yield top, self.levels(self.rows(top, min(self.height, top + _CHUNK_PX)))

    def levels(self, stored: np.ndarray) -> np.ndarray:
        """Return stored values (h, W, N) as float32 levels 0..255, NaN where there is no data."""
        assert self._declared is not None
        low, high = np.array(self._declared.spans, np.float64).T
        scaled = stored.astype(np.float32)
        scaled -= low.astype(np.float32)
        scaled *= (255 / (high - low)).astype(np.float32)
        np.clip(scaled, 0, 255, out=scaled)
        if (void := self._void(stored)) is not None:
            scaled[void] = np.nan
        return scaled

    def void(self, top: int, bottom: int) -> np.ndarray | None:
        """Return (bottom - top, W) bool: pixels without data, in rows that `rows` returned last; None if there can be none."""
        return self._void(self._kept[top - self._first : bottom - self._first])

    @property
    def georeference(self) -> str | None:
        """JSON with `crs` as WKT and `transform`, GDAL's six affine coefficients; None if the file has no CRS."""
        return _georeference(self._dataset)

    def _empty(self, count: int) -> np.ndarray:
        shape = (count, self.width) if self._declared is None else (count, self.width, len(self._bands))
        return np.empty(shape, self._dtype)

    def _read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """Return stored values (bottom - top, right - left, N)."""
        from rasterio.windows import Window

        with _explained(f"at row {top}", self._failure), settings():
            window = Window(left, top, right - left, bottom - top)
            return np.moveaxis(self._dataset.read(self._bands, window=window), 0, -1)

    def _void(self, stored: np.ndarray) -> np.ndarray | None:
        void = None if stored.dtype.kind != "f" else ~np.isfinite(stored).all(axis=-1)
        for place, nodata in enumerate(self._nodata):
            if nodata is not None and not np.isnan(nodata):
                here = stored[..., place] == nodata
                void = here if void is None else void | here
        return void


def _spans(start: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield spans from `start` to `end`, cut at the multiples of `step`."""
    while start < end:
        cut = min(end, (start // step + 1) * step)
        yield start, cut
        start = cut


def as_picture(image: np.ndarray) -> np.ndarray:
    """Return a decoded image as (H, W, 3) uint8, for display and the CRF: bands 1 to 3, or band 1 three times; NaN is black."""
    if image.dtype == np.uint8:
        return image
    chosen = image[..., [0, 1, 2] if image.shape[-1] >= 3 else [0, 0, 0]]
    return np.nan_to_num(chosen).round().astype(np.uint8)


def void_of(image: np.ndarray) -> np.ndarray | None:
    """Return (H, W) bool: the pixels of a decoded image without data; None if there are none."""
    if image.dtype == np.uint8:
        return None
    void: np.ndarray = np.isnan(image[..., 0])
    return void if void.any() else None


def _opened(source: Source, stack: ExitStack) -> tuple[Any, Callable[[], OSError | None]]:
    """Return the dataset, which the stack will close, and a function that returns the store error behind an error of GDAL."""
    rasterio = require_rasterio()
    start, failure = _start(source)
    driver = _DRIVERS.get(start)
    if driver is None:
        raise Reject(
            "decode",
            "not_an_image",
            f"no PNG or TIFF, which is what `image` declares bands of (it starts with {quoted(start)}); convert it",
        )
    with _explained("", failure.told), settings(), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        if isinstance(source, bytes):
            file = stack.enter_context(rasterio.io.MemoryFile(source))
            dataset = file.open(driver=driver, sharing=False)
        else:
            name = f"{uuid4()}.tif"  # GDAL registers one opener per name
            dataset = rasterio.open(name, driver=driver, sharing=False, opener=partial(failure.open, source, name))
    return stack.enter_context(dataset), failure.told


class _Failure:
    """Keeps the error that the store raised while GDAL read: GDAL itself reports only that a read failed."""

    def __init__(self) -> None:
        self._error: OSError | None = None

    def told(self) -> OSError | None:
        return self._error

    def open(self, source: Callable[[], io.RawIOBase], name: str, path: str, mode: str = "rb") -> io.RawIOBase:
        """Open the file under its own name only; GDAL also looks for other files beside it."""
        if os.path.basename(path) != name:
            raise FileNotFoundError(path)
        try:
            file = source()
        except OSError as error:
            self._error = error
            raise
        read = file.read

        def remembered(length: int = -1) -> bytes | None:
            try:
                return read(length)
            except OSError as error:
                self._error = error
                return b""  # GDAL cannot handle an exception here

        file.read = remembered  # type: ignore[method-assign]
        return file


def _store_error(error: OSError) -> Reject:
    return Reject("read", "store_error", f"{type(error).__name__}: {error}")


def _start(source: Source) -> tuple[bytes, _Failure]:
    if isinstance(source, bytes):
        if not source:
            raise Reject("decode", "empty", "the file is empty; copy it again")
        return source[:4], _Failure()
    try:
        with source() as file:
            return file.read(4) or b"", _Failure()
    except OSError as error:
        raise _store_error(error) from error


@contextmanager
def settings() -> Iterator[None]:
    """Configure GDAL for the calls inside: a bounded cache, and no access to other files beside the image."""
    rasterio = require_rasterio()
    with rasterio.Env(
        rasterio.session.DummySession(),
        GDAL_CACHEMAX=_CACHE_BYTES,
        GDAL_PAM_ENABLED="NO",  # neither reads nor writes files beside an image
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
    ):
        yield


@contextmanager
def _explained(where: str, failure: Callable[[], OSError | None]) -> Iterator[None]:
    """Turn GDAL's errors into a Reject."""
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        if (met := failure()) is not None:
            raise _store_error(met) from met
        sentence = " ".join(str(error.__cause__ or error).split())
        raise Reject(
            "decode",
            "corrupt",
            f"the image cannot be decoded{f' {where}' if where else ''} ({sentence}); copy it again",
        ) from None


def _check_bands(dataset: Any, declared: ImageConfig) -> None:
    """Raise Reject if the file does not have the declared bands and range."""
    for band, (low, high) in zip(declared.bands, declared.spans, strict=True):
        if band > dataset.count:
            raise Reject(
                "decode",
                "missing_band",
                f"image.bands asks for band {band}, and the file has {dataset.count}; set image.bands to bands that it has",
            )
        if dataset.colorinterp[band - 1].name == "palette":
            raise Reject(
                "decode",
                "unsupported_mode",
                f"band {band} holds palette indices, not levels; convert the image to grey or RGB",
            )
        dtype = np.dtype(dataset.dtypes[band - 1])
        if dtype.kind not in _PURE_DIGITS:
            raise Reject("decode", "unsupported_mode", f"band {band} is {dtype}, not levels; convert the image")
        least, most, words = _limits(dataset, band, dtype)
        if high > most or low < least:
            raise Reject(
                "decode",
                "bit_depth",
                f"image.range is [{low:g}, {high:g}], and band {band} of the file is {words}, {least:g} to {most:g}; convert "
                "the image to the depth of the others, or declare a range of its own in another run",
            )


def _limits(dataset: Any, band: int, dtype: np.dtype) -> tuple[float, float, str]:
    """Return the smallest and largest value that a band can hold, and its type in words."""
    if dtype.kind == "f":
        return -np.inf, np.inf, str(dtype)
    bits = dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS")
    if bits is not None and dtype.kind == "u":
        return 0, 2 ** int(bits) - 1, f"of {bits} bits"
    info = np.iinfo(dtype)
    return info.min, info.max, str(dtype)


def _check_ids(dataset: Any) -> None:
    if dataset.count != 1 or dataset.dtypes[0] != "uint8":
        raise Reject(
            "decode",
            "label_not_indexed",
            f"the label of a streamed image is one band of 8 bits, found {dataset.count} of {dataset.dtypes[0]}; store class "
            "ids",
        )


def _georeference(dataset: Any) -> str | None:
    if dataset.crs is None:
        return None
    return json.dumps({"crs": dataset.crs.to_wkt(), "transform": list(dataset.transform.to_gdal())})
