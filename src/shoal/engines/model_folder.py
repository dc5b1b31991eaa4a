"""What a converted language model looks like on disk: a folder that serving reads and ``convert_gguf`` writes.

``openvino_model.xml`` and ``.bin`` hold the graph and the weights, ``tokenizer.json`` the tokenizer in the format
of the ``tokenizers`` library, ``model.json`` the rest: a :class:`ModelCard`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from shoal.errors import ModelLoadFailed
from shoal.types import TokenId

CARD_FILE = "model.json"
GRAPH_FILE = "openvino_model.xml"
WEIGHTS_FILE = "openvino_model.bin"
TOKENIZER_FILE = "tokenizer.json"

RECIPE = 2  # of what is written into these files: a higher number makes every cached folder be built again


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What serving must know of a language model besides its graph and its vocabulary."""

    architecture: str
    context_length: int  # tokens, prompt and answer
    eos_ids: tuple[TokenId, ...]  # each ends a generation; the first is the model's own
    bos_id: TokenId | None = None
    add_bos: bool = False  # does every prompt begin with ``bos_id``?
    chat_template: str | None = None  # Jinja source
    source_sha256: str = ""  # of the file this was made from
    made_with: dict[str, str] = {}  # package: version


def write_card(folder: Path, card: ModelCard) -> None:
    (folder / CARD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2))


def read_card(folder: Path) -> ModelCard:
    """Raises :class:`~shoal.errors.ModelLoadFailed` when the folder has no readable card."""
    path = folder / CARD_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelCard)
    except OSError as exc:
        raise ModelLoadFailed(f"cannot read {path}: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise ModelLoadFailed(f"{path} is not a model card: {exc}") from exc
