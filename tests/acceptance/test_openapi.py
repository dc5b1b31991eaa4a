"""The published document is true: schemathesis, which knows nothing but it, finds nothing to say."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import msgspec
from processes import shoal, until_ready

HOOKS = Path(__file__).with_name("openapi_hooks.py")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
#: Each operation at the bounds of its schema and beyond them, then at random.
ARGUMENTS = ("--phases", "coverage,fuzzing", "--max-examples", "10", "--seed", "7", "--continue-on-failure")


def is_true(url: str, folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": HOOKS.stem}
    environment["PYTHONPATH"] = os.pathsep.join([str(HOOKS.parent), environment.get("PYTHONPATH", "")])
    program = Path(sys.executable).with_name("schemathesis")
    tried = subprocess.run(
        [program, "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS), *ARGUMENTS, *arguments, "--no-color"],
        cwd=folder,  # it leaves its notes there
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert " passed" in tried.stdout


def test_what_is_served_is_what_the_document_says(shoal_url: str, tmp_path: Path) -> None:
    is_true(shoal_url, tmp_path, "--exclude-path-regex", "^/admin")


def test_what_operators_may_do_is_what_the_document_says(tmp_path: Path) -> None:
    with shoal("serve", "echo", "--workers", "1", "--listen-port", "0") as command:
        url = "http://" + command.wait_for(r"coordinator serves on http://(\S+)")[1]
        until_ready(url, command)
        is_true(url, tmp_path, "--include-path-regex", "^/admin")


def test_the_document_names_every_surface(shoal_url: str) -> None:
    with urllib.request.urlopen(f"{shoal_url}/openapi.json") as answer:
        document = msgspec.json.decode(answer.read())
    assert document["openapi"] == "3.1.0"
    assert {"/v1/chat/completions", "/v1/jobs/{id}", "/v2/models/{model}/infer", "/metrics"} <= document["paths"].keys()
