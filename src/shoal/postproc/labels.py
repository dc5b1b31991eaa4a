"""What a model's classes are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shoal.errors import ModelLoadFailed


def read_labels(folder: Path | None, name: str) -> npt.NDArray[np.object_]:
    """A file with a label a line, in UTF-8; space around one belongs to it. BYTES of shape (classes,).

    Raises :class:`~shoal.errors.ModelLoadFailed`.
    """
    if folder is None:
        raise ModelLoadFailed(f"the model has no folder with the file {name}")
    try:
        # Not splitlines(): a label may be a character that ends lines elsewhere.
        lines = (folder / name).read_bytes().removesuffix(b"\n").split(b"\n")
        b"".join(lines).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadFailed(f"cannot read the labels in {folder / name}: {error}") from error
    return np.array(lines, np.object_)
