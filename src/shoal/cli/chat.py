"""``shoal chat``: talk to a model in the terminal."""

from __future__ import annotations

import click

from shoal.cli.settings import address_option
from shoal.client import Client


@click.command()
@address_option
@click.option("--model", default="default", show_default=True)
@click.option("--temperature", type=float, default=0.7, show_default=True)
@click.option("--max-tokens", type=int, default=512, show_default=True)
def chat(address: str, model: str, temperature: float, max_tokens: int) -> None:
    """Talk to a model; an empty line or Ctrl-D ends it."""
    messages: list[dict[str, str]] = []
    with Client(address) as client:
        while question := _ask():
            messages.append({"role": "user", "content": question})
            answer = ""
            for chunk in client.stream(messages, model=model, temperature=temperature, max_tokens=max_tokens):
                click.echo(chunk.text, nl=False)
                answer += chunk.text
            click.echo()
            messages.append({"role": "assistant", "content": answer})


def _ask() -> str:
    try:
        return input(click.style("> ", bold=True)).strip()
    except EOFError:
        click.echo()
        return ""
