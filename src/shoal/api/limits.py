"""What one HTTP request may ask for. Beyond a limit the answer is a clear 4xx, never a stretched server."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """The defaults are meant to be above every honest request and below what hurts."""

    body_bytes: int = 8 * 2**20  # 128k tokens of text are about 0.6 MB; 2,048 texts to embed of 4 kB each just fit
    tensor_bytes: int = (
        63 * 2**20
    )  # body of an inference request: what a frame of the native protocol holds, and its head
    all_bodies_bytes: int = 2**30  # of the requests in progress together; beyond: 429
    body_timeout: float = 30.0  # seconds for a whole body: 8 MiB at 2.2 Mbit/s, and at this rate for larger ones
    write_timeout: float = 60.0  # seconds a client may leave the answer unread
    deadline: float = 24 * 3600.0  # seconds: the largest x-deadline-ms
    messages: int = 2048  # of one chat
    samples: int = 16  # n
    choices: int = 128  # prompts of one /v1/completions request times n: each is a generation of its own
    inputs: int = 2048  # texts of one /v1/embeddings request, as OpenAI
    stop_strings: int = 16
    stop_length: int = 256  # characters: every token is compared with every stop string
    logit_biases: int = 1024
    tools: int = 128
    tool_bytes: int = 128 * 1024  # of all tools as JSON: each is read with every prompt, and compiled
    tool_calls: int = 16  # of one answer: a small model may not know when to end
    byte_strings: int = 2**18  # elements of a BYTES tensor: each is an object of its own
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()  # whose x-tenant is believed
