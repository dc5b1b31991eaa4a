"""What the processes say to each other: one small frozen class a message, one union a direction.

A message opens a stream on a connection (``rpc``); its answers come back on that stream. Fields are only ever
appended, with defaults, so that neighbours one version apart understand each other. Times are spans in seconds,
never clock readings: the clocks of two machines differ.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from shoal.types import (
    FIRST_VERSION,
    Array,
    CoordinatorId,
    FinishReason,
    Grammar,
    ModelId,
    ModelKind,
    ModelName,
    ModelPart,
    ModelState,
    Probability,
    Prompt,
    RequestId,
    Sampling,
    StepSpec,
    TensorSpec,
    TokenId,
    TokenLogprob,
    Usage,
    Version,
    WorkerId,
    WorkerState,
)

MAX_SPAN: Final = 365 * 86_400.0  # seconds: more than anybody means, and no NaN passes a bound
MAX_MODELS: Final = 256  # of one worker; shards count each
MAX_REASON: Final = 8192  # characters: an error and the last line a process wrote

Span = Annotated[float, msgspec.Meta(ge=0, le=MAX_SPAN)]
Interval = Annotated[float, msgspec.Meta(ge=0.01, le=3600)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # that a program without 64-bit integers can read too
Capacity = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Weight = Annotated[float, msgspec.Meta(gt=0, le=1000)]
Label = Annotated[str, msgspec.Meta(max_length=256)]
Reason = Annotated[str, msgspec.Meta(max_length=MAX_REASON)]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of everything that travels."""


# -- requests: client to coordinator, coordinator to worker, worker to its engine process


class Generate(Message, frozen=True):
    """Answered by one or more :class:`Chunk`; the last one has a ``finish_reason``.

    With ``output``, the tokens of an answer that broke off, the chunks go on behind them: joined to what was sent
    before, text and tokens are those of the unbroken answer. ``usage`` counts all of it.
    """

    request_id: RequestId
    model: ModelName
    prompt: Prompt
    sampling: Sampling
    grammar: Grammar | None = None
    output: tuple[TokenId, ...] = ()  # tokens that the client has already: the answer goes on behind them
    version: Version | None = None  # None: the one that is live
    tenant: str = ""
    priority: int = 0  # the higher, the sooner
    trace: str = ""  # W3C traceparent of the span that sent it
    group: str = ""  # the same for the generations of one request, which share their turns; empty: alone
    resume: Label = ""  # a name, not to be guessed: the coordinator keeps the answer for who comes back with it
    seen: Number = 0  # chunks that the client has of what this coordinator sent under that name


class Chunk(Message, frozen=True):
    """A part of a generated answer. Text lags behind tokens while a stop string or a character is incomplete."""

    text: str
    tokens: tuple[TokenId, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None  # with the last chunk
    fallback: str = ""  # the model that answered in place of the one that was asked for


class Infer(Message, frozen=True):
    """Answered by one :class:`Inferred`, or by several from a model that streams."""

    request_id: RequestId
    model: ModelName
    inputs: dict[str, Array]
    version: Version | None = None  # None: the one that is live
    tenant: str = ""
    priority: int = 0  # the higher, the sooner
    trace: str = ""  # W3C traceparent of the span that sent it
    key: str = ""  # what chooses the shard, where no input does
    shard: int | None = None  # which part of the model's key space these rows belong to, once it is known


class Inferred(Message, frozen=True):
    outputs: dict[str, Array]
    last: bool = True
    fallback: str = ""  # the model that answered in place of the one that was asked for


class ListModels(Message, frozen=True):
    """Answered by one :class:`ModelList`."""


class ModelList(Message, frozen=True):
    models: tuple[ModelInfo, ...]


# -- fleet: worker to coordinator, and back


class ModelInfo(Message, frozen=True):
    """What a worker tells of a model it has."""

    name: Annotated[ModelName, msgspec.Meta(max_length=256)]
    kind: ModelKind
    state: ModelState
    version: Annotated[Version, msgspec.Meta(max_length=256)] = FIRST_VERSION
    reason: Reason = ""  # why it failed
    context_length: Number = 0  # tokens; 0 for tensor models
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batchable: bool = True  # may several requests share a run?
    shard: Number | None = None  # the part of the key space it holds; None: all of it
    aliases: tuple[str, ...] = ()  # other names that lead to it; a coordinator tells
    live: bool = True  # does it answer to the bare name? A coordinator tells
    at_once: Number = 0  # rows of a tensor model, or generations, that keep it busy; more would only wait; 0: not known

    @property
    def id(self) -> ModelId:
        return ModelId(self.name, self.version)

    @property
    def part(self) -> ModelPart:
        return ModelPart(self.id, self.shard)


class Load(Message, frozen=True):
    """How busy a worker is."""

    in_flight: Number = 0  # requests
    waiting: Number = 0  # requests that no engine has begun
    kv_used: Probability = 0.0  # share of the KV blocks in use


class Resources(Message, frozen=True):
    cpus: Number = 0
    memory_bytes: Number = 0


class Invite(Message, frozen=True):
    """A coordinator that called a worker asks it to register. Answered by :class:`Ack`, then by a registration."""


class Register(Message, frozen=True):
    """A worker introduces itself; answered by :class:`Registered`. Valid until the connection ends."""

    worker_id: Annotated[WorkerId, msgspec.Meta(min_length=1, max_length=256)]
    instance: Label  # new with every start of the process: tells a restart from a second connection
    address: Label  # HOST:PORT where the worker listens
    capacity: Capacity  # requests it takes at a time
    resources: Resources
    state: WorkerState
    models: Annotated[tuple[ModelInfo, ...], msgspec.Meta(max_length=MAX_MODELS)]
    zone: Label = ""
    role: Label = "both"  # prefill, decode or both
    weight: Weight = 1.0  # its share of the work beside others of its capacity


class Registered(Message, frozen=True):
    coordinator_id: CoordinatorId
    heartbeat_interval: Interval  # seconds


class Status(Message, frozen=True):
    """Sent on every change of the worker's state or models, and first after it has registered. No answer."""

    worker_id: Annotated[WorkerId, msgspec.Meta(min_length=1, max_length=256)]
    state: WorkerState
    load: Load
    models: Annotated[tuple[ModelInfo, ...], msgspec.Meta(max_length=MAX_MODELS)]


class Deregister(Message, frozen=True):
    """The worker leaves and takes nothing more. No answer."""

    worker_id: Annotated[WorkerId, msgspec.Meta(min_length=1, max_length=256)]
    reason: Reason


class Drain(Message, frozen=True):
    """Coordinator to worker: finish what you have, then leave. Answered by :class:`Ack`."""

    timeout: Span  # seconds


class Sample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class MetricFamily(msgspec.Struct, frozen=True, array_like=True):
    """A metric as Prometheus' text format has it, with the values since its process began."""

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram"]
    samples: tuple[Sample, ...]


class MetricsReport(Message, frozen=True):
    """Engine process to worker to coordinator: the metrics that have changed since the last report. No answer."""

    source: Label  # which part of the worker measures: a model, or the worker itself
    families: tuple[MetricFamily, ...]


class Deploy(Message, frozen=True):
    """Coordinator to worker: have this model. Answered by :class:`Ack` once it is ready, or by what stopped it."""

    name: ModelName
    version: Version
    settings: dict[str, Any]  # a ``ModelConfig`` as plain values
    shard: int | None = None


class Undeploy(Message, frozen=True):
    """Coordinator to worker: finish what runs on this model, then let it go. Answered by :class:`Ack`."""

    name: ModelName
    version: Version
    timeout: Span  # seconds for what runs


class Ack(Message, frozen=True):
    pass


# -- engine processes: worker to its child


class LoadModel(Message, frozen=True):
    """The first message to an engine process; answered by a :class:`ModelInfo` once loaded, or by what stopped it."""

    name: ModelName
    version: Version
    settings: dict[str, Any]  # a ``ModelConfig`` as plain values
    cache_dir: str
    threads: int
    kv_tokens: int
    max_sequences: int
    shard: int | None = None
    telemetry: dict[str, Any] = {}  # a ``TelemetryConfig`` as plain values
    step_processes: int = 0  # for the steps before and after inference; 0: they run where the engine does


class LoadReport(Message, frozen=True):
    """How busy an engine process is, to its worker; how busy a worker is, to its coordinators, and a heartbeat: sent at
    least every interval, unless a :class:`Status` is. No answer."""

    load: Load


# -- step processes: engine process to its child


class LoadSteps(Message, frozen=True):
    """The first message to a step process; answered by :class:`StepsLoaded`, or by what stopped it."""

    preproc: tuple[StepSpec, ...]
    postproc: tuple[StepSpec, ...]
    folder: str | None  # of the model's files
    timeout: Span  # seconds for one request; a process that is stuck beyond them ends itself


class StepsLoaded(Message, frozen=True):
    preproc: tuple[StepInfo, ...]
    postproc: tuple[StepInfo, ...]


class StepInfo(Message, frozen=True):
    name: str
    inputs: tuple[TensorSpec, ...]  # empty: it takes whatever there is
    outputs: tuple[TensorSpec, ...]  # empty: not known before it has run


class RunSteps(Message, frozen=True):
    """Run one half of the steps. Answered by one :class:`Inferred`."""

    half: Literal["preproc", "postproc"]
    tensors: dict[str, Array]
    wanted: tuple[str, ...] | None = None  # of what preproc made; None: all. Of postproc it is the last step's outputs


Request = (
    Generate
    | Infer
    | ListModels
    | Invite
    | Register
    | Status
    | Deregister
    | Drain
    | Deploy
    | Undeploy
    | LoadModel
    | LoadReport
    | MetricsReport
    | LoadSteps
    | RunSteps
)
Answer = Chunk | Inferred | ModelList | Registered | Ack | ModelInfo | StepsLoaded
#: Those that want no answer: they travel on no stream, and nothing else does.
Notice = Status | Deregister | LoadReport | MetricsReport
