"""OpenAI's API, checked with OpenAI's own clients."""

from __future__ import annotations

from functools import partial

from shoal.api.openai import chat, completions, embeddings, models
from shoal.api.plane import Plane
from shoal.api.routing import Route


def routes(plane: Plane) -> list[Route]:
    return [
        Route("POST", "/v1/chat/completions", partial(chat.create, plane)),
        Route("POST", "/v1/completions", partial(completions.create, plane)),
        Route("POST", "/v1/embeddings", partial(embeddings.create, plane)),
        Route("GET", "/v1/models", partial(models.list_all, plane)),
        Route("GET", "/v1/models/", partial(models.retrieve, plane)),
    ]
