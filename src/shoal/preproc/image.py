"""Encoded pictures to arrays of pixels, and these to the size a model takes.

Pictures of different sizes do not fit into one array: such rows travel from ``decode_image`` to ``resize`` as an
array of arrays.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shoal.errors import InvalidRequest
from shoal.preproc import base
from shoal.types import Array, Tensors, TensorSpec

FORMATS = ("JPEG", "PNG")
_DEPTH = {"RGB": 3, "BGR": 3, "L": 1}
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Size = Annotated[int, msgspec.Meta(ge=1, le=16384)]  # pixels


class DecodeImage:
    """JPEG and PNG, the right way up, to UINT8 of shape (rows, height, width, channels)."""

    class Options(base.Options, frozen=True):
        input: str = "image"
        output: str = "image"
        channels: Literal["RGB", "BGR", "L"] = "RGB"
        #: Of all pictures of a request together: a file of a kilobyte can stand for a gigabyte of pixels.
        max_pixels: Annotated[int, msgspec.Meta(ge=1)] = 100_000_000

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        self._options = options
        self.inputs = (TensorSpec(options.input, "BYTES", (-1, 1)),)
        self.outputs = (TensorSpec(options.output, "UINT8", (-1, -1, -1, _DEPTH[options.channels])),)

    def __call__(self, tensors: Tensors) -> Tensors:
        room = self._options.max_pixels
        images: list[Array] = []
        for number, row in enumerate(tensors[self._options.input][:, 0]):
            images.append(self._decode(number, row, room))
            room -= images[-1].shape[0] * images[-1].shape[1]
        return {self._options.output: _together(images)}

    def _decode(self, number: int, encoded: bytes, room: int) -> Array:
        try:
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                if image.width * image.height > room:
                    raise self._refused(number, self._too_large(image.width, image.height))
                upright = ImageOps.exif_transpose(image)
                mode = "L" if self._options.channels == "L" else "RGB"
                pixels = np.asarray(_of_8_bits(upright).convert(mode))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise self._refused(number, f"is too large: {error}") from error
        except UnidentifiedImageError as error:
            raise self._refused(number, f"is not a picture in {' or '.join(FORMATS)}") from error
        except InvalidRequest:
            raise
        except Exception as error:  # Pillow raises a dozen kinds for a file that is damaged
            raise self._refused(number, f"is damaged: {error}") from error
        if self._options.channels == "BGR":
            return np.ascontiguousarray(pixels[..., ::-1])
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def _too_large(self, width: int, height: int) -> str:
        limit = self._options.max_pixels
        return f"has {width} x {height} pixels; the pictures of a request may have {limit} together"

    def _refused(self, number: int, why: str) -> InvalidRequest:
        name = self._options.input
        return InvalidRequest(f"row {number} of '{name}' {why}", param=name)


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as Pillow makes colours of 16 bits: by their upper half. ``convert`` would make it white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


class Resize:
    """Pictures of any size to one size."""

    class Options(base.Options, frozen=True):
        width: Size
        height: Size
        input: str = "image"
        output: str = "image"
        mode: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"
        #: Fit the picture in and fill the rest with ``pad``; otherwise it is stretched.
        keep_aspect: bool = False
        align: Literal["start", "center"] = "start"  # where the picture lies in what is filled
        pad: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        self._options = options
        self.inputs = (TensorSpec(options.input, "UINT8", (-1, -1, -1, -1)),)
        self.outputs = (TensorSpec(options.output, "UINT8", (-1, options.height, options.width, -1)),)

    def __call__(self, tensors: Tensors) -> Tensors:
        images = [self._fit(number, image) for number, image in enumerate(tensors[self._options.input])]
        return {self._options.output: _together(images)}

    def _fit(self, number: int, image: Array) -> Array:
        options = self._options
        height, width, depth = image.shape
        if not height or not width or depth not in (1, 3):
            raise InvalidRequest(
                f"row {number} of '{options.input}' has shape {list(image.shape)}; it must be [height, width, 1 or 3]",
                param=options.input,
            )
        size = _fitting(width, height, options.width, options.height) if options.keep_aspect else None
        resized = _resized(image, size or (options.width, options.height), _FILTERS[options.mode])
        return resized if size is None else self._pad(resized)

    def _pad(self, image: Array) -> Array:
        options = self._options
        height, width, depth = image.shape
        top = left = 0
        if options.align == "center":
            top, left = (options.height - height) // 2, (options.width - width) // 2
        padded = np.full((options.height, options.width, depth), options.pad, np.uint8)
        padded[top : top + height, left : left + width] = image
        return padded


def _fitting(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int]:
    """The largest size of the same proportions, to the nearest pixel, that fits."""
    scale = min(to_width / width, to_height / height)
    return min(to_width, max(1, round(width * scale))), min(to_height, max(1, round(height * scale)))


def _resized(image: Array, size: tuple[int, int], resampling: Image.Resampling) -> Array:
    flat = image[..., 0] if image.shape[2] == 1 else image
    return np.asarray(Image.fromarray(flat).resize(size, resampling)).reshape(size[1], size[0], image.shape[2])


def _together(images: Iterable[Array]) -> Array:
    """One array of all rows; an array of arrays when they differ in size."""
    rows = list(images)
    if len({row.shape for row in rows}) == 1:
        return rows[0][None] if len(rows) == 1 else np.stack(rows)
    ragged = np.empty(len(rows), np.object_)
    ragged[:] = rows
    return ragged
