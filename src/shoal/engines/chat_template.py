"""A conversation as the tokens a model was trained to read it in.

The template comes with the model and runs in a sandbox; the contents come from strangers and may never become
control tokens: a message that says ``<|im_end|>`` must not end the message.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2

from shoal.engines.base import Tokenizer
from shoal.engines.template_sandbox import MAX_RENDERED, TemplateEnvironment, budget
from shoal.engines.tool_prompt import describe, has_place_for_tools, in_plain_words
from shoal.errors import InvalidRequest
from shoal.types import ChatMessage, TokenId, Tool, ToolCall

ROLE = re.compile(r"[a-z_]{1,32}")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def render(
    template: str | None,
    messages: Sequence[ChatMessage],
    tools: Sequence[Tool] = (),
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt as text, as transformers would render it; ChatML where ``template`` is None.

    Raises :class:`~shoal.errors.InvalidRequest` for what the template refuses or cannot do, and for what would take
    it too long (:mod:`~shoal.engines.template_sandbox`).
    """
    for message in messages:
        if not ROLE.fullmatch(message.role):
            raise InvalidRequest(f"the role {message.role!r} is not a word of a-z and _", param="messages")
    variables = {
        "messages": [_as_dict(message) for message in messages],
        "bos_token": bos_token,
        "eos_token": eos_token,
        "add_generation_prompt": add_generation_prompt,
        "tools": [describe(tool) for tool in tools] or None,
        "documents": None,
    }
    try:
        with budget():
            return _bounded(_compile(CHATML if template is None else template), variables)
    except InvalidRequest:
        raise
    except Exception as exc:  # a template is a program of a stranger's: it can raise anything
        raise InvalidRequest(f"the model's chat template refused the messages: {exc}", param="messages") from exc


def encode_chat(tokenizer: Tokenizer, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> list[TokenId]:
    """The prompt as tokens, whose control tokens all come from the template.

    Ordinary text gives exactly the tokens of the rendered prompt. Only where the contents brought control tokens
    of their own are template and contents encoded apart. Raises :class:`~shoal.errors.InvalidRequest`.
    """
    if not has_place_for_tools(tokenizer.chat_template):
        messages, tools = in_plain_words(messages, tools), ()
    _refuse_control_tokens(tokenizer, tools)
    rendered = _render(tokenizer, messages, tools)
    disguise = _Disguise()
    skeleton = _render(tokenizer, [disguise.message(message) for message in messages], tools)
    tokens = tokenizer.encode(rendered, special=True)
    if _control_tokens(tokenizer, tokens) == _control_tokens(tokenizer, tokenizer.encode(skeleton, special=True)):
        return tokens
    return _encode_apart(tokenizer, disguise.split(skeleton), disguise.hidden)


class _Disguise:
    """Placeholders that no message can guess, in place of what strangers wrote: they show what the template says by
    itself."""

    def __init__(self) -> None:
        self.hidden: dict[str, str] = {}
        self._nonce = secrets.token_hex(16)

    def message(self, message: ChatMessage) -> ChatMessage:
        calls = tuple(
            ToolCall(self._hide(call.id), self._hide(call.name), self._hide(call.arguments))
            for call in message.tool_calls
        )
        return ChatMessage(message.role, self._hide(message.content), calls, self._hide(message.tool_call_id))

    def split(self, text: str) -> list[str]:
        """Placeholders and what is between them."""
        return re.split(f"({self._nonce}x[0-9]+x)", text)

    def _hide(self, text: str) -> str:
        if not text:
            return text
        name = f"{self._nonce}x{len(self.hidden)}x"
        self.hidden[name] = text
        return name


class _Json(str):
    """JSON text that the filter ``tojson`` leaves as it is, so that a model reads its calls as it wrote them."""


def _as_dict(message: ChatMessage) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _Json(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found


def _refuse_control_tokens(tokenizer: Tokenizer, tools: Sequence[Tool]) -> None:
    # They go through the template as values, not as text, so they cannot be encoded apart from it.
    allowed = _control_tokens(tokenizer, tokenizer.encode("", special=True))
    for tool in tools:
        text = json.dumps(describe(tool), ensure_ascii=False)
        if _control_tokens(tokenizer, tokenizer.encode(text, special=True)) != allowed:
            raise InvalidRequest(f"tools: {tool.name} has a control token of the model in its text", param="tools")


def _encode_apart(tokenizer: Tokenizer, parts: list[str], hidden: dict[str, str]) -> list[TokenId]:
    bos = tokenizer.encode("", special=True)
    tokens: list[TokenId] = []
    for part in filter(None, parts):
        if part in hidden:
            tokens += tokenizer.encode(hidden[part], special=False)
        else:
            tokens += _without_added_bos(tokenizer, part, bos)
    return tokens if tokens[: len(bos)] == bos else bos + tokens


def _without_added_bos(tokenizer: Tokenizer, part: str, bos: list[TokenId]) -> list[TokenId]:
    # Every call adds what begins a prompt unless the text says it itself, and this part begins none.
    ids = tokenizer.encode(part, special=True)
    written = bool(tokenizer.bos_token) and part.startswith(tokenizer.bos_token)
    return ids if written else ids[len(bos) :]


def _render(tokenizer: Tokenizer, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> str:
    return render(
        tokenizer.chat_template, messages, tools, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token
    )


def _control_tokens(tokenizer: Tokenizer, tokens: list[TokenId]) -> list[TokenId]:
    control = {token for token in set(tokens) if not tokenizer.token_bytes(token)}
    return [token for token in tokens if token in control]


def _bounded(template: jinja2.Template, variables: dict[str, Any]) -> str:
    parts: list[str] = []
    room = MAX_RENDERED
    for part in template.generate(variables):
        room -= len(part)
        if room < 0:
            raise InvalidRequest(f"the messages render to more than {MAX_RENDERED} characters", param="messages")
        parts.append(part)
    return "".join(parts)


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(template)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    if isinstance(value, _Json):
        return str(value)
    # Jinja's own filter escapes HTML, which the models have never seen.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _environment() -> TemplateEnvironment:
    environment = TemplateEnvironment()
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


_ENVIRONMENT = _environment()
