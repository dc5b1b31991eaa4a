"""OpenAI's API, checked with OpenAI's own clients."""

from __future__ import annotations

from functools import partial

from shoal.api.openai import chat, completions, embeddings, models
from shoal.api.openai.answers import ChatCompletion, EmbeddingList, Model, ModelList, TextCompletion
from shoal.api.openai.schema import ChatBody, CompletionBody, EmbeddingBody
from shoal.api.openapi import EVENTS, RUNNING, RUNS, Content, Operation
from shoal.api.plane import Plane
from shoal.api.routing import Route
from shoal.errors import ModelNotFound


def routes(plane: Plane) -> list[Route]:
    return [
        Route("POST", "/v1/chat/completions", partial(chat.create, plane), _CHAT, computes=True),
        Route("POST", "/v1/completions", partial(completions.create, plane), _COMPLETION, computes=True),
        Route("POST", "/v1/embeddings", partial(embeddings.create, plane), _EMBEDDINGS, computes=True),
        Route("GET", "/v1/models", partial(models.list_all, plane), _MODELS),
        Route("GET", "/v1/models/{model*}", partial(models.retrieve, plane), _MODEL),
    ]


_CHAT = Operation(
    "Answer a conversation, whole or as a stream of events",
    {200: (Content(ChatCompletion), Content(media=EVENTS))},
    body=(Content(ChatBody),),
    errors=RUNS,
    headers=RUNNING,
)
_COMPLETION = Operation(
    "Go on with a text, whole or as a stream of events",
    {200: (Content(TextCompletion), Content(media=EVENTS))},
    body=(Content(CompletionBody),),
    errors=RUNS,
    headers=RUNNING,
)
_EMBEDDINGS = Operation(
    "Embed texts", {200: (Content(EmbeddingList),)}, body=(Content(EmbeddingBody),), errors=RUNS, headers=RUNNING
)
_MODELS = Operation("All models and aliases", {200: (Content(ModelList),)})
_MODEL = Operation("One model or alias", {200: (Content(Model),)}, errors=(ModelNotFound,))
