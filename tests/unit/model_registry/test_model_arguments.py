from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.config import ModelConfig, ShardConfig, TensorConfig
from shoal.errors import ConfigError
from shoal.model_registry import BUILT_IN, Engine, Source, make_spec, parse_model_argument
from shoal.model_store import CATALOG
from shoal.types import ModelKind

GENERATE, TENSOR = ModelKind.GENERATE, ModelKind.TENSOR


@pytest.mark.parametrize(
    ("argument", "name", "source", "target", "kind"),
    [
        ("smollm2", "smollm2", Source.BUILT_IN, "smollm2", GENERATE),
        ("minilm", "minilm", Source.BUILT_IN, "minilm", TENSOR),
        ("echo", "echo", Source.BUILT_IN, "echo", TENSOR),
        ("default", "smollm2", Source.BUILT_IN, "smollm2", GENERATE),
        ("chat=default", "chat", Source.BUILT_IN, "smollm2", GENERATE),
        ("default=minilm", "default", Source.BUILT_IN, "minilm", TENSOR),
        ("models/fish.gguf", "fish", Source.GGUF, "models/fish.gguf", GENERATE),
        ("SmolLM2.Q4_1.GGUF", "SmolLM2.Q4_1", Source.GGUF, "SmolLM2.Q4_1.GGUF", GENERATE),
        ("/a=b/fish.onnx", "fish", Source.ONNX, "/a=b/fish.onnx", TENSOR),
        ("f=/a=b/my fish.onnx", "f", Source.ONNX, "/a=b/my fish.onnx", TENSOR),
        ("mine=package.module:Class", "mine", Source.PYTHON, "package.module:Class", TENSOR),
        ("up=openai+http://host:8000/v1", "up", Source.OPENAI, "openai+http://host:8000/v1", GENERATE),
        ("up=openai+https://host", "up", Source.OPENAI, "openai+https://host", GENERATE),
    ],
)
def test_every_form_of_a_model_is_understood(
    argument: str, name: str, source: Source, target: str, kind: ModelKind
) -> None:
    spec = parse_model_argument(argument)
    assert (spec.name, spec.source, spec.target, spec.kind, spec.engine) == (name, source, target, kind, Engine.AUTO)


@pytest.mark.parametrize(
    ("argument", "name", "uri", "engine"),
    [
        ("fish=models/x.gguf?engine=llama", "fish", "models/x.gguf?engine=llama", Engine.LLAMA),
        ("models/x.gguf?engine=openvino", "x", "models/x.gguf?engine=openvino", Engine.OPENVINO),
        ("smollm2?engine=llama", "smollm2", "smollm2?engine=llama", Engine.LLAMA),
        ("fish=models.fish:Fish?engine=language", "fish", "models.fish:Fish?engine=language", Engine.LANGUAGE),
        ("minilm?engine=auto", "minilm", "minilm?engine=auto", Engine.AUTO),
    ],
)
def test_an_option_picks_the_engine(argument: str, name: str, uri: str, engine: Engine) -> None:
    spec = parse_model_argument(argument)
    assert (spec.name, spec.settings.uri, spec.engine) == (name, uri, engine)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("", "give a built-in name (smollm2, minilm, ocr, echo, default), a path"),
        ("salmon", "'salmon' is not a model"),
        ("fish=", "'' is not a model"),
        ("fish=salmon", "'salmon' is not a model"),
        ("fish=models/", "'models/' is not a model"),
        ("fish=hf://org/repo/file", "hf:// is not built in this version; give a built-in name"),
        ("fish=s3://bucket/x.gguf", "'s3://' is not known; give a built-in name"),
        ("fish=openai+http://", "names no host; give openai+http://HOST:PORT"),
        ("openai+http://host:1", "needs a name: NAME=openai+http://host:1"),
        ("package.module:Class", "needs a name: NAME=package.module:Class"),
        ("models/my fish.gguf", "'my fish' cannot be a model's name; put NAME= before the URI"),
        ("my fish=x.gguf", "'my fish=x' cannot be a model's name"),
        (f"{'a' * 65}=x.gguf", "cannot be a model's name"),
        ("fish=x.gguf?", "after '?' comes engine=auto|openvino|llama, not ''"),
        ("fish=x.gguf?engine=onnx", "after '?' comes engine=auto|openvino|llama, not 'engine=onnx'"),
        ("fish=x.gguf?threads=2", "not 'threads=2'"),
        ("fish=x.gguf?engine=llama&engine=llama", "after '?' comes"),
    ],
)
def test_what_is_wrong_is_said_with_what_was_expected(argument: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_model_argument(argument)
    assert says in caught.value.message


@given(st.text(max_size=80) | st.from_regex(r"[a-z.=?:/+-]{0,40}", fullmatch=True))
def test_any_argument_is_a_model_or_a_configuration_error(argument: str) -> None:
    try:
        spec = parse_model_argument(argument)
    except ConfigError:
        return
    again = parse_model_argument(f"{spec.id}={spec.settings.uri}")
    assert again == spec, "name and URI travel to the engine's process and mean the same there"


def test_the_built_in_names_are_those_of_the_model_store_and_echo() -> None:
    assert BUILT_IN.keys() == CATALOG.keys() | {"echo"}
    for name, entry in CATALOG.items():
        assert BUILT_IN[name].kind is entry.kind
        assert entry.format in BUILT_IN[name].engines


def test_the_number_of_a_shard_takes_its_place_in_the_uri() -> None:
    shards = ShardConfig(count=3)
    spec = make_spec("table@2", ModelConfig(uri="parts/table-{shard}.onnx?engine=onnx", shards=shards))
    assert spec.of_shard(2).target == "parts/table-2.onnx"
    assert spec.of_shard(2).id == spec.id
    assert spec.of_shard(None) is spec


def test_a_model_that_generates_cannot_be_in_shards() -> None:
    with pytest.raises(ConfigError, match="only a tensor model can be in shards") as caught:
        make_spec("m", ModelConfig(uri="smollm2", shards=ShardConfig(count=2)))
    assert caught.value.param == "shards"


X = TensorConfig(name="x", dtype="FP32", shape=(-1, 4))


@pytest.mark.parametrize("field", ["inputs", "outputs"])
@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ((TensorConfig(name="x", dtype="float", shape=(1,)),), r"\[0\]: tensor 'x' cannot be float; there are BOOL, "),
        ((X, TensorConfig(name="y", dtype="FP32", shape=(-1, -4))), r"\[1\]: tensor 'y' cannot have shape \[-1, -4\]"),
        ((X, X), r"\[1\]: there are two tensors called 'x'"),
    ],
)
def test_a_tensor_that_no_array_could_be_is_refused(field: str, tensors: tuple[TensorConfig, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=f"model 'm': {field}{says}") as caught:
        make_spec("m", ModelConfig(uri="echo", **{field: tensors}))  # type: ignore[arg-type]
    assert caught.value.param == field


@pytest.mark.parametrize(("options", "kind"), [("", ModelKind.TENSOR), ("?engine=language", ModelKind.GENERATE)])
def test_a_python_class_generates_text_where_its_uri_says_so(options: str, kind: ModelKind) -> None:
    assert parse_model_argument(f"fish=models.fish:Fish{options}").kind is kind
