from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shoal.errors import InvalidRequest, ModelLoadFailed
from shoal.preproc import make_step
from shoal.types import Array, StepSpec, Tensors

RED, BLUE = (250, 0, 0), (0, 0, 250)


def picture(width: int = 4, height: int = 2, colour: Any = RED, *, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (width, height), colour)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rows(*files: bytes) -> Tensors:
    return {"image": np.array([[file] for file in files], object)}


def decode(*files: bytes, **options: Any) -> Array:
    return make_step(StepSpec("decode_image", options), None)(rows(*files))["image"]


def resize(images: Array, **options: Any) -> Array:
    return make_step(StepSpec("resize", options), None)({"image": images})["image"]


# -- decoding


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_becomes_pixels(kind: str) -> None:
    pixels = decode(encoded(picture(), kind), encoded(picture(colour=BLUE), kind))
    assert pixels.shape == (2, 2, 4, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[0], np.full((2, 4, 3), RED), atol=8)
    np.testing.assert_allclose(pixels[1], np.full((2, 4, 3), BLUE), atol=8)


@pytest.mark.parametrize(("channels", "pixel"), [("RGB", [250, 0, 0]), ("BGR", [0, 0, 250]), ("L", [75])])
def test_channels_come_in_the_order_that_is_asked_for(channels: str, pixel: list[int]) -> None:
    step = make_step(StepSpec("decode_image", {"channels": channels}), None)
    assert step.outputs[0].shape[-1] == len(pixel)
    assert step(rows(encoded(picture())))["image"][0, 0, 0].tolist() == pixel


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_kind_of_picture_has_the_same_channels(mode: str) -> None:
    assert decode(encoded(picture(colour=None, mode=mode))).shape == (1, 2, 4, 3)


@pytest.mark.parametrize("channels", ["RGB", "L"])
def test_grey_of_16_bits_keeps_its_shades(channels: str) -> None:
    shades = np.array([[0, 0x0100], [0x80FF, 0xFFFF]], np.uint16)
    pixels = decode(encoded(Image.fromarray(shades)), channels=channels)
    assert pixels[0, :, :, 0].tolist() == [[0, 1], [128, 255]]


def test_a_picture_taken_sideways_is_turned_up() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned by 90 degrees
    assert decode(encoded(picture(4, 2), "JPEG", exif=turned)).shape == (1, 4, 2, 3)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "is not a picture in JPEG or PNG"),
        (b"fish", "is not a picture in JPEG or PNG"),
        (encoded(picture(), "BMP"), "is not a picture in JPEG or PNG"),
        (encoded(picture(64, 64), "PNG")[:60], "is damaged"),
        (encoded(picture(64, 64), "JPEG")[:400], "is "),
    ],
    ids=["empty", "text", "another format", "half a PNG", "half a JPEG"],
)
def test_a_file_that_is_no_picture_is_refused_with_its_row(file: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"row 1 of 'image' {reason}") as refused:
        decode(encoded(picture()), file)
    assert refused.value.param == "image"


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8), st.sampled_from(["PNG", "JPEG"]))
def test_a_damaged_file_gives_pixels_or_an_error_that_names_it(place: int, damage: bytes, kind: str) -> None:
    file = bytearray(encoded(picture(40, 30), kind))
    at = place % len(file)
    file[at : at + len(damage)] = damage
    said = "row 0 of 'image'"
    try:
        assert decode(bytes(file)).dtype == np.uint8
    except InvalidRequest as error:
        said = error.message
    assert said.startswith("row 0 of 'image'")


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes whose header promises many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(10_001, 10_000), (10_000, 9_999), (30_000, 30_000)])
def test_a_file_that_would_unpack_to_too_much_is_refused_before_it_does(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match=r"row 1 of 'image' (has|is too large)"):
        decode(encoded(picture(1000, 1000)), bomb(*size))


def test_the_pictures_of_a_request_share_one_limit() -> None:
    file = encoded(picture(10, 10))
    assert decode(file, file, max_pixels=200).shape == (2, 10, 10, 3)
    with pytest.raises(InvalidRequest, match=r"row 2 of 'image' has 10 x 10 pixels; .* 200 together"):
        decode(file, file, file, max_pixels=200)


# -- resizing


def test_pictures_of_different_sizes_come_out_alike() -> None:
    images = decode(encoded(picture(5, 7)), encoded(picture(20, 10, BLUE)))
    assert images.dtype == np.object_
    resized = resize(images, width=4, height=3)
    assert resized.shape == (2, 3, 4, 3)
    assert resized.dtype == np.uint8
    assert (resized[0] == RED).all()
    assert (resized[1] == BLUE).all()


@pytest.mark.parametrize(
    ("size", "align", "box"),
    [
        ((20, 10), "start", (0, 4, 0, 8)),
        ((20, 10), "center", (2, 6, 0, 8)),
        ((10, 20), "start", (0, 8, 0, 4)),
        ((10, 20), "center", (0, 8, 2, 6)),
        ((100, 1), "start", (0, 1, 0, 8)),
        ((3, 3), "start", (0, 8, 0, 8)),
    ],
)
def test_a_picture_that_keeps_its_proportions_is_padded(
    size: tuple[int, int], align: str, box: tuple[int, int, int, int]
) -> None:
    image = resize(decode(encoded(picture(*size))), width=8, height=8, keep_aspect=True, align=align, pad=9)[0]
    top, bottom, left, right = box
    expected = np.full((8, 8, 3), 9)
    expected[top:bottom, left:right] = RED
    assert image.tolist() == expected.tolist()


def test_modes_differ_where_there_are_edges() -> None:
    image = np.zeros((1, 2, 2, 1), np.uint8)
    image[0, :, 1] = 200
    assert resize(image, width=4, height=1, mode="nearest").ravel().tolist() == [0, 0, 200, 200]
    assert resize(image, width=4, height=1, mode="bilinear").ravel().tolist() == [0, 50, 150, 200]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
def test_any_picture_fits_into_any_size(height: int, width: int, to_height: int, to_width: int, depth: int) -> None:
    image = np.full((1, height, width, depth), 255, np.uint8)
    fitted = resize(image, width=to_width, height=to_height, keep_aspect=True)
    assert fitted.shape == (1, to_height, to_width, depth)
    filled = (fitted[0] == 255).all(axis=-1)
    assert filled[0].all() or filled[:, 0].all()  # one side is filled to its end


@pytest.mark.parametrize("shape", [(1, 0, 4, 3), (1, 4, 4, 2)])
def test_an_array_that_is_no_picture_is_refused_with_its_row(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="row 0 of 'image' has shape"):
        resize(np.zeros(shape, np.uint8), width=4, height=4)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"height": 4}, "width"),
        ({"width": 0, "height": 4}, r"\$\.width"),
        ({"width": 4, "height": 100_000}, r"\$\.height"),
        ({"width": 4, "height": 4, "mode": "best"}, r"\$\.mode"),
        ({"width": 4, "height": 4, "heigth": 4}, "heigth"),
        ({"width": 4, "height": 4, "pad": 256}, r"\$\.pad"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelLoadFailed, match=f"step 'resize': .*{field}"):
        make_step(StepSpec("resize", options), None)
