"""Ask a running Shoal a question, and compare two sentences: `python examples/example_client.py [QUESTION]`."""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.request

import numpy as np

import shoal

QUESTION = "What is the capital of France? Answer in one sentence."
SENTENCES = ["A fish swims in the sea.", "A shoal of herring crosses the ocean."]

TOUR = """
Shoal is serving. Try:

  curl http://{address}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "default", "messages": [{{"role": "user", "content": "Say hello."}}]}}'

  .venv/bin/shoal chat

  .venv/bin/python -c 'import shoal
with shoal.Client("{address}") as client:
    print(client.generate([{{"role": "user", "content": "Name three fish."}}], max_tokens=40).text)'

Ctrl-C stops the coordinator and its workers.
"""


def wait_until_ready(address: str, timeout: float = 600.0) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing is ready at {address}: {error}") from error
            time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--address", default="127.0.0.1:9000")
    parser.add_argument("--wait", action="store_true", help="wait until the coordinator is ready")
    parser.add_argument("--tour", action="store_true", help="say at the end what else to try")
    options = parser.parse_args()
    if options.wait:
        wait_until_ready(options.address)

    with shoal.Client(options.address) as client:
        print(f"\nQ: {options.question}\nA: ", end="", flush=True)
        chat = [{"role": "user", "content": options.question}]
        for chunk in client.stream(chat, temperature=0, max_tokens=80):
            print(chunk.text, end="", flush=True)
        print()

        if any(model.name == "minilm" for model in client.models()):
            first, second = client.embed(SENTENCES)
            print(f"\nSimilarity of {SENTENCES[0]!r} and {SENTENCES[1]!r}: {float(np.dot(first, second)):.3f}")
    if options.tour:
        print(TOUR.format(address=options.address))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
