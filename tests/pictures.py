"""Pictures that tests and nobody else draw, with the font that Pillow brings."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont


def line_of_text(
    text: str, *, size: int = 32, colour: str = "black", ground: str = "white", kind: str = "PNG"
) -> bytes:
    """An encoded picture of one line, its letters ``size`` pixels high."""
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (int(font.getlength(text)) + size, size * 3 // 2), ground)
    ImageDraw.Draw(image).text((size // 2, size // 8), text, fill=colour, font=font)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
