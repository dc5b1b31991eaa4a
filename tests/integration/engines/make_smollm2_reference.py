"""What llama.cpp computes for SmolLM2, for the tests of other engines: an independent program on the same weights.

Run it again when the model or the text changes::

    cd tests/integration/engines
    python make_smollm2_reference.py SmolLM2-135M-Instruct.Q4_1.gguf > data/smollm2_reference.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from shoal.engines.base import EngineOptions, LanguageEngine, Row
from shoal.engines.chat_template import encode_chat
from shoal.engines.llama import LlamaEngine
from shoal.types import ChatMessage

TEXT = (
    "The history of the city begins in the ninth century, when a small group of traders settled by the river. "
    "They built houses of wood, a market and a church, and within a hundred years their village had become the "
    "most important port of the region. In 1284 a fire destroyed almost everything; what stands today was built "
    "afterwards, of brick, and has survived two wars. Every summer thousands of visitors come to see it."
)
QUESTION = "Count from one to ten."  # one whose answer has no near ties
EVERY = 1009  # a prime number of tokens lies between those whose logits are kept: 49 of 49152


def logits_by_position(engine: LanguageEngine, tokens: list[int]) -> np.ndarray:
    rows = (Row([token], place, [0], wants_logits=True, generated=True) for place, token in enumerate(tokens))
    return np.array([engine.step([row])[0].copy() for row in rows])


def greedy(engine: LanguageEngine, tokens: list[int], count: int) -> list[int]:
    best = int(engine.step([Row(tokens, 0, [0], wants_logits=True)])[0].argmax())
    answer = [best]
    while len(answer) < count and best not in engine.tokenizer.eos_ids:
        row = Row([best], len(tokens) + len(answer) - 1, [0], wants_logits=True, generated=True)
        best = int(engine.step([row])[0].argmax())
        answer.append(best)
    return answer


def main(path: Path) -> None:
    engine = LlamaEngine(path, EngineOptions(threads=2, kv_tokens=1024, max_sequences=1))
    tokens = engine.tokenizer.encode(TEXT, special=False)
    logits = logits_by_position(engine, tokens)
    question = encode_chat(engine.tokenizer, [ChatMessage("user", QUESTION)])
    reference = {
        "made_by": "llama.cpp of xllamacpp 2026.10.11549 from SmolLM2-135M-Instruct.Q4_1.gguf",
        "text": TEXT,
        "tokens": tokens,
        "argmax": logits.argmax(axis=1).tolist(),
        "kept_tokens": list(range(0, logits.shape[1], EVERY)),
        "logits": [[round(float(value), 2) for value in row] for row in logits[:, ::EVERY]],
        "question": QUESTION,
        "question_tokens": question,
        "answer": greedy(engine, question, 32),
    }
    json.dump(reference, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
