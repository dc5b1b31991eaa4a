from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.config import ModelConfig
from shoal.errors import Forbidden
from shoal.model_registry import ModelSpec, make_spec
from shoal.worker.permission import Permission

OWN = [
    make_spec("own", ModelConfig(uri="mine.models:Own", preproc=("mine.steps:clean",))),
    make_spec("file", ModelConfig(uri="somewhere/model.onnx?engine=onnx")),
]


def asked(uri: str, **settings: Any) -> ModelSpec:
    return make_spec("asked", ModelConfig(uri=uri, **settings))


def test_built_in_models_and_what_the_worker_names_itself_are_permitted() -> None:
    permission = Permission(("mine.models:Allowed", "openai+http://upstream:80"), OWN)
    for uri in ("echo", "minilm", "mine.models:Own", "mine.models:Allowed", "openai+http://upstream:80"):
        permission.check(asked(uri))
    permission.check(asked("somewhere/model.onnx"))
    permission.check(asked("echo", preproc=("normalize", {"mine.steps:clean": {}})))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (asked("os:system"), "os:system"),
        (asked("mine.models:Other"), "mine.models:Other"),
        (asked("openai+http://elsewhere:80"), "elsewhere:80"),
        (asked("somewhere/other.onnx"), "somewhere/other.onnx"),
        (asked("echo", preproc=("os:system",)), "os:system"),
        (asked("echo", postproc=({"mine.models:Other": {}},)), "mine.models:Other"),
        (asked("echo", postproc=({"top_k": {"labels": "../../etc/passwd"}},)), "etc/passwd"),
        (asked("echo", postproc=({"top_k": {"deep": [{"labels": "/etc/passwd"}]}},)), "etc/passwd"),
    ],
)
def test_anything_else_is_refused_by_name(settings: ModelSpec, names: str) -> None:
    with pytest.raises(Forbidden, match=f"needs '.*{names}', which worker.allow does not name"):
        Permission(("",), OWN).check(settings)


def test_a_folder_permits_the_model_files_below_it_and_nothing_that_leads_out(tmp_path: Path) -> None:
    inside, outside = tmp_path / "models", tmp_path / "other"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.onnx").touch()
    (inside / "link.onnx").symlink_to(outside / "secret.onnx")
    permission = Permission((str(inside),), [])
    permission.check(asked(f"{inside}/a.onnx"))
    permission.check(asked(f"{inside}/deep/b.gguf"))
    for uri in (f"{outside}/secret.onnx", f"{inside}/../other/secret.onnx", f"{inside}/link.onnx", f"{inside}2/a.onnx"):
        with pytest.raises(Forbidden):
            permission.check(asked(uri))


def test_a_step_may_name_a_file_beside_its_model_and_a_lone_slash_is_no_path() -> None:
    steps = ({"top_k": {"labels": "names/labels.txt", "separator": "/"}},)
    Permission((), []).check(asked("echo", postproc=steps))
