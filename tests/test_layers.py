"""Imports point one way, and what a room must not do it does not do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "shoal"

# A room may import itself and those before it.
ORDER = """
    errors types messages config clock aio telemetry
    model_registry kvstore kvcache load_balancer router cluster
    rpc engines model_store discovery launchers
    preproc postproc batcher worker coordinator
    api dashboard client bench node cli __main__ __init__
"""
ROOMS = ORDER.split()
DECIDE = {"model_registry", "kvstore", "kvcache", "load_balancer", "router", "cluster"}
ACTING = {"asyncio", "socket", "time", "threading", "subprocess", "torch"}
FOREIGN_ENGINES = {"onnx", "onnxruntime", "openvino", "openvino_genai", "gguf", "safetensors"}
FOREIGN_ENGINES |= {"xllamacpp", "llama_cpp", "torch", "tensorflow", "vllm"}
TEST_HELPERS = {"tests", "conftest", "pytest", "hypothesis", "unittest", "testing"}

# Processes of their own, which their parent starts with a few plain arguments; the last answers on its output.
CHILD_PROGRAMS = {"worker/engine_host.py", "preproc/host.py", "model_store/convert_gguf.py"}
# These hand their environment on to a child; the last sets a variable before its library loads.
PASS_ENVIRONMENT_ON = {"launchers/local.py", "model_store/wheel.py", "engines/llama_abi.py"}


@cache
def files() -> dict[str, ast.Module]:
    found = sorted(SOURCE.rglob("*.py"))
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in found}


def room(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def imports(path: str, *, at_runtime: bool = False) -> Iterator[tuple[str, str]]:
    """Where, and the dotted name of every module or member, inside functions too."""
    typing_only = set[ast.AST]()
    for node in ast.walk(files()[path]):  # breadth first: a block comes before what is in it
        if at_runtime and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing_only.update(inner for statement in node.body for inner in ast.walk(statement))
        if isinstance(node, ast.Import) and node not in typing_only:
            yield from ((f"{path}:{node.lineno}", alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node not in typing_only:
            module = "." * node.level + (node.module or "")
            yield from ((f"{path}:{node.lineno}", f"{module}.{alias.name}") for alias in node.names)


def uses(path: str, *names: str) -> Iterator[str]:
    """Where one of these attributes is written or imported, or one of these functions called."""
    for node in ast.walk(files()[path]):
        if isinstance(node, ast.Attribute) and (name := ast.unparse(node)) in names:
            yield f"{path}:{node.lineno} {name}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield f"{path}:{node.lineno} {node.func.id}"
    yield from (f"{where} {name}" for where, name in imports(path) if name in names)


def is_allowed(importer: str, name: str) -> bool:
    root, _, rest = name.partition(".")
    target = rest.split(".")[0]
    return root != "shoal" or target in ROOMS[: ROOMS.index(importer) + 1]


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room(path) for path in files()} <= set(ROOMS)


def test_a_room_imports_itself_and_those_before_it_alone() -> None:
    found = [(path, *found) for path in files() for found in imports(path)]
    assert not [f"{where} {name}" for path, where, name in found if not is_allowed(room(path), name)]


def test_imports_are_written_from_the_root() -> None:
    found = [found for path in files() for found in imports(path)]
    assert not [f"{where} {name}" for where, name in found if name.startswith(".")]


def test_deciding_rooms_import_nothing_that_acts_or_waits() -> None:
    found = [found for path in files() if room(path) in DECIDE for found in imports(path, at_runtime=True)]
    assert not [f"{where} {name}" for where, name in found if name.split(".")[0] in ACTING]


def test_foreign_engines_are_imported_by_the_engines_and_the_model_store_alone() -> None:
    found = [found for path in files() if room(path) not in {"engines", "model_store"} for found in imports(path)]
    assert not [f"{where} {name}" for where, name in found if name.split(".")[0] in FOREIGN_ENGINES]


def test_nothing_that_ships_imports_helpers_of_tests() -> None:
    found = [found for path in files() for found in imports(path)]
    assert not [f"{where} {name}" for where, name in found if TEST_HELPERS & set(name.split("."))]


def test_only_the_command_line_prints_exits_and_reads_arguments() -> None:
    paths = [path for path in files() if room(path) != "cli" and path not in CHILD_PROGRAMS]
    assert not [found for path in paths for found in uses(path, "sys.argv", "sys.exit", "exit", "print", "input")]


def test_only_the_configuration_reads_the_environment() -> None:
    paths = [path for path in files() if room(path) != "config" and path not in PASS_ENVIRONMENT_ON]
    assert not [found for path in paths for found in uses(path, "os.environ", "os.environb", "os.getenv")]
