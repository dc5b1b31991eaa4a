"""Ask a running Shoal a question, and compare two sentences: `python examples/example_client.py [QUESTION]`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
import urllib.request

import numpy as np
import psutil

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
    """Until no model is loading any more. Exits with the reason when the one to ask has failed."""
    deadline = time.monotonic() + timeout
    while True:
        models = models_at(address)
        if models and all(model["state"] != "loading" for model in models.values()):
            asked = models.get("default", {"state": "missing"})
            if asked["state"] == "failed":
                sys.exit(f"shoal: {asked['root']} failed: {asked['reason']}")
            return
        if time.monotonic() > deadline:
            sys.exit(f"shoal: nothing is ready at {address} after {timeout:.0f} s")
        time.sleep(0.2)


def models_at(address: str) -> dict[str, dict[str, str]]:
    try:
        with urllib.request.urlopen(f"http://{address}/v1/models", timeout=5) as answer:
            return {model["id"]: model for model in json.load(answer)["data"]}
    except (OSError, ValueError):
        return {}  # nobody listens yet


def address_of(server: int) -> str:
    """Where this process listens, once it does: the port may have been chosen anywhere."""
    while True:
        with contextlib.suppress(psutil.Error):  # it has ended, and so do we
            for socket in psutil.Process(server).net_connections("tcp"):
                if socket.status == psutil.CONN_LISTEN:
                    return f"{socket.laddr.ip}:{socket.laddr.port}"
        time.sleep(0.2)


def end_with(server: int) -> None:
    while os.getppid() == server:
        time.sleep(0.2)
    sys.stdout.flush()
    os._exit(1)


def ask(address: str, question: str) -> None:
    with shoal.Client(address) as client:
        print(f"\nQ: {question}")
        lead = "A: "
        for chunk in client.stream([{"role": "user", "content": question}], temperature=0, max_tokens=80):
            print(lead + chunk.text, end="", flush=True)
            lead = ""
        print()

        if any(model.name == "minilm" and model.state == "ready" for model in client.models()):
            first, second = client.embed(SENTENCES)
            print(f"\nSimilarity of {SENTENCES[0]!r} and {SENTENCES[1]!r}: {float(np.dot(first, second)):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--address", default="127.0.0.1:9000")
    parser.add_argument("--wait", action="store_true", help="wait until the models are loaded")
    parser.add_argument("--tour", action="store_true", help="say at the end what else to try")
    parser.add_argument("--server", type=int, metavar="PID", help="ask this parent process, and end when it does")
    options = parser.parse_args()
    if options.server:
        threading.Thread(target=end_with, args=(options.server,), daemon=True).start()
        options.address = address_of(options.server)
    if options.wait:
        wait_until_ready(options.address)
    try:
        ask(options.address, options.question)
    except shoal.ShoalError as error:
        sys.exit(f"shoal: {error.message}")
    if options.tour:
        print(TOUR.format(address=options.address))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
