"""The shell of generation: requests in, chunks out, one step of the engine after another.

Everything about sequences is touched by the event loop alone, and only between two steps; a step runs in a thread
that does nothing else. While it runs, the tokens of the one before become text and go out. A stop string is
therefore seen one step late, and that step's token is thrown away.

Where the same sequences go on, that thread begins the next step by itself (:mod:`~shoal.worker.generation.chain`), for
a way through the event loop takes a third of a millisecond. It writes down the tokens, and is never more than a step
ahead of the loop, which does all else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import resource
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass

from shoal.aio import Tasks
from shoal.clock import now
from shoal.engines.base import LanguageEngine
from shoal.errors import DeadlineExceeded, EngineFailed, ModelUnavailable, ShoalError
from shoal.messages import Chunk, Generate, Load
from shoal.types import FinishReason
from shoal.worker.generation.answer import Answer
from shoal.worker.generation.chain import Chain
from shoal.worker.generation.intake import Intake
from shoal.worker.generation.prepare import EncodePrompt, Preparer
from shoal.worker.generation.progress import NO_OBSERVER, Progress, StepObserver
from shoal.worker.generation.sampler import Sampled
from shoal.worker.generation.scheduler import Limits, Planned, Scheduler
from shoal.worker.generation.sequence import TokenSequence
from shoal.worker.generation.soundness import SPOILED_STEPS, Soundness
from shoal.worker.generation.step_limit import StepLimit, StepWatch
from shoal.worker.generation.stepper import NotFinite, Outcome, Step, Stepper

logger = logging.getLogger(__name__)

DEFAULT_LIMITS = Limits()
MAX_FAILED_STEPS = 3  # in a row, until the engine counts as broken
CLOSE_TIMEOUT = 10.0  # seconds for the last step to end


@dataclass(frozen=True, slots=True)
class _News:
    """A token that is not delivered yet."""

    sequence: TokenSequence
    sampled: Sampled
    reason: FinishReason | None


class _Broken(Exception):
    """The engine cannot be used any more, and why."""


class GenerationLoop:
    """Generates for many requests at once. Owns the engine: closing it closes that.

    ``encode_prompt`` may be slow; it is called in threads of its own. Prompts share KV only under the same
    ``cache_salt``. ``on_unhealthy`` is called once, with the reason, when the engine hangs, fails step after step or
    computes nothing but NaN: everybody has then been answered, nothing more is taken, and the process is best ended.
    """

    def __init__(
        self,
        engine: LanguageEngine,
        *,
        encode_prompt: EncodePrompt,
        limits: Limits = DEFAULT_LIMITS,
        cache_salt: bytes = b"",
        on_unhealthy: Callable[[str], None] = lambda reason: None,
        observer: StepObserver = NO_OBSERVER,
    ) -> None:
        self._engine = engine
        self._observer = observer
        self._step_limit = StepLimit(limits.step_seconds)
        self._scheduler = Scheduler(engine.capabilities, limits)
        self._intake = Intake(Preparer(engine, encode_prompt, cache_salt))
        self._stepper = Stepper(engine)
        self._on_unhealthy = on_unhealthy
        self._answers: dict[TokenSequence, Answer] = {}  # that somebody still waits for
        self._step: Step | None = None  # that runs now
        self._began = 0.0  # when it did
        self._ended: asyncio.Future[list[Outcome]] | None = None  # its chain
        self._failed_steps = 0
        self._soundness = Soundness()
        self._parked = 0  # as it was last told
        self._arrival = asyncio.Event()
        self._chain = Chain(engine, self._stepper, followed=self._go_on, patience=limits.step_seconds)
        self._tasks = Tasks()
        self._closed = False
        self.healthy = True

    def start(self) -> None:
        self._tasks.start(self._run(), name="generation")

    def load(self) -> Load:
        pool = self._scheduler.pool
        return Load(
            in_flight=len(self._answers) + self._intake.count,
            waiting=len(self._scheduler.waiting) + self._intake.count,
            kv_used=pool.held / pool.num_blocks,
        )

    async def generate(self, request: Generate, *, deadline: float | None = None) -> AsyncGenerator[Chunk]:
        """The answer as it comes; the last chunk has a ``finish_reason`` and the usage. Closing aborts it.

        Whoever asks closes it at the ``deadline`` (on the loop's clock); what cannot begin to speak by then is refused.

        Raises :class:`~shoal.errors.InvalidRequest` for what cannot be generated, :class:`~shoal.errors.Overloaded`
        when too many wait already, :class:`~shoal.errors.EngineFailed`,
        :class:`~shoal.errors.DeadlineExceeded` before anything is computed, and
        :class:`~shoal.errors.ModelUnavailable` when the loop is closed.
        """
        progress = Progress(request.trace, now())
        answer = await self._prepare(request)
        answer.progress = progress
        progress.prepared = now()
        self._submit(answer, deadline)
        try:
            while True:
                chunk = await answer.outbox.take()
                progress.spoke()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._withdraw(answer.sequence)
            progress.ended(answer.sequence)

    async def _prepare(self, request: Generate) -> Answer:
        self._check_open()
        self._scheduler.check_room(self._intake.count)
        return await self._intake.prepare(request)

    def _submit(self, answer: Answer, deadline: float | None) -> None:
        self._check_open()
        sequence = answer.sequence
        sequence.arrived = now()
        sequence.deadline = math.inf if deadline is None else deadline
        if self._scheduler.is_late(sequence, sequence.arrived):
            raise _too_late(sequence)
        self._answers[answer.sequence] = answer
        self._scheduler.submit(answer.sequence)
        self._arrival.set()
        self._end_chain()

    def _check_open(self) -> None:
        if self._closed or not self.healthy:
            raise ModelUnavailable("the model is not served here any more")

    def _withdraw(self, sequence: TokenSequence) -> None:
        """Nobody waits for this answer any more, whether or not it is complete."""
        if self._retire(sequence) is not None:
            self._observer.withdrawn()
        step = self._step
        if step is None or any(planned.sequence in self._answers for planned in step.rows):
            return
        # A step that only decodes is over before it could be stopped.
        if any(len(planned.row.tokens) > 1 for planned in step.rows):
            self._stepper.interrupt(step)

    def _retire(self, sequence: TokenSequence) -> Answer | None:
        self._end_chain()
        self._scheduler.remove(sequence)
        return self._answers.pop(sequence, None)

    async def _run(self) -> None:
        try:
            await self._generate_steps()
        except _Broken as broken:
            self._break(str(broken))
        except Exception:  # a border: whoever waits gets an answer, whatever went wrong here
            logger.exception("the generation loop failed", extra={"action": "generation_failed"})
            self._break("the server failed while it generated")

    async def _generate_steps(self) -> None:
        news: list[_News] = []
        while True:
            self._arrival.clear()
            rows = self._scheduler.plan(now())
            self._tell()
            if not rows:
                self._deliver(news)
                news = []
                self._scheduler.check_idle()
                await self._arrival.wait()
                continue
            self._step = Step(rows)
            if self._scheduler.waiting or len(rows) < len(self._scheduler.running):
                self._end_chain()  # somebody's turn comes, or the rest of somebody's prompt
            self._began = self._begin(rows)
            self._ended = self._chain.begin(self._step)
            # The loop's next look at its sockets lets go of the interpreter, so the engine begins before the delivery.
            await asyncio.sleep(0)
            self._deliver(news)
            self._chain.delivered()
            outcomes = await self._outcomes(self._ended)
            self._measure(self._step, now() - self._began)
            news = self._commit(self._step, outcomes)
            self._watch(self._step, outcomes)
            self._step = None

    def _go_on(self, step: Step, outcomes: Sequence[Outcome], after: Step) -> None:
        """A step of a chain has ended, and the one after it has begun."""
        began, self._began = self._began, now()
        self._step = after
        try:
            self._measure(step, self._began - began)
            news = self._commit(step, outcomes, written=True)
            self._watch(step, outcomes)
            self._deliver(news)
        except Exception as error:  # a border: whoever waits for the chain's end raises it
            self._end_chain()
            if self._ended is not None and not self._ended.done():
                self._ended.set_exception(error)
        self._chain.delivered()

    def _end_chain(self) -> None:
        """The step after the one that runs has to be planned."""
        if self._step is not None:
            self._step.last.set()

    def _tell(self) -> None:
        """Answer those that the plan refused, and say whom it preempted."""
        scheduler = self._scheduler
        for sequence in scheduler.late:
            self._fail(sequence, _too_late(sequence))
        parked = scheduler.waiting.parked
        if scheduler.preempted or scheduler.recomputed or parked != self._parked:
            self._observer.preempted(scheduler.preempted, scheduler.recomputed, parked)
            scheduler.preempted, scheduler.recomputed, self._parked = Counter(), 0, parked

    def _measure(self, step: Step, seconds: float) -> None:
        self._observer.stepped(len(step.rows), step.tokens, seconds)
        if step.computed.is_set() and not step.unwanted.is_set():
            self._step_limit.observe(step.tokens, seconds)
            prompts = sum(len(planned.row.tokens) for planned in step.rows if not planned.row.generated)
            self._scheduler.pace.observe(prompts, seconds)

    def _begin(self, rows: Iterable[Planned]) -> float:
        """Note for each answer when it was first worked on. Returns the time."""
        at = now()
        for planned in rows:
            answer = self._answers.get(planned.sequence)
            if answer is not None and answer.progress is not None:
                answer.progress.begun = answer.progress.begun or at
        return at

    async def _outcomes(self, ended: asyncio.Future[list[Outcome]]) -> list[Outcome]:
        watch: StepWatch | None = None
        watched: Step | None = None
        while not ended.done():
            if (step := self._step) is not None and step is not watched:
                watched, watch = step, StepWatch(self._step_limit.seconds(step.tokens), now(), _pages_read())
            assert watch is not None
            await asyncio.wait([ended], timeout=watch.pause)
            if not ended.done() and self._step is watched and watch.look(now(), _pages_read()):
                raise _Broken(f"the engine has not ended its step for {watch.limit:.3g} seconds")
        return ended.result()

    def _commit(self, step: Step, outcomes: Iterable[Outcome], *, written: bool = False) -> list[_News]:
        """Write down what the engine has computed, for those that still want it. ``written``: the tokens are."""
        news: list[_News] = []
        if wasted := sum(planned.sequence not in self._answers for planned in step.rows):
            self._observer.wasted(wasted)
        for planned, outcome in zip(step.rows, outcomes, strict=True):
            sequence = planned.sequence
            if sequence not in self._answers:
                continue
            if isinstance(outcome, ShoalError):
                self._fail(sequence, outcome)
                continue
            self._scheduler.commit(planned)
            if outcome is not None:
                reason = None if written else sequence.append(outcome.token, self._engine.tokenizer.eos_ids)
                news.append(_News(sequence, outcome, reason))
                if reason is not None:
                    self._scheduler.remove(sequence)
        return news

    def _deliver(self, news: Iterable[_News]) -> None:
        for item in news:
            answer = self._answers.get(item.sequence)
            if answer is not None and answer.add(item.sampled, item.reason):
                self._retire(item.sequence)

    def _fail(self, sequence: TokenSequence, error: ShoalError) -> None:
        answer = self._retire(sequence)
        if answer is not None:
            answer.outbox.fail(error)

    def _fail_all(self, error: Callable[[], ShoalError]) -> None:
        for sequence in list(self._answers):
            self._fail(sequence, error())

    def _watch(self, step: Step, outcomes: Sequence[Outcome]) -> None:
        """Raises :class:`_Broken` for an engine that can no more, whoever asks it."""
        if step.unwanted.is_set():
            return
        failed = not step.computed.is_set() and all(isinstance(outcome, EngineFailed) for outcome in outcomes)
        self._failed_steps = self._failed_steps + 1 if failed else 0
        if self._failed_steps == MAX_FAILED_STEPS:
            raise _Broken(f"the engine failed {MAX_FAILED_STEPS} steps in a row")
        rows = zip(step.rows, outcomes, strict=True)
        spoiled = (planned.sequence.prompt for planned, outcome in rows if isinstance(outcome, NotFinite))
        if self._soundness.observe(spoiled, sound=any(isinstance(outcome, Sampled) for outcome in outcomes)):
            raise _Broken(f"the engine computed nothing but NaN {SPOILED_STEPS} steps in a row")

    def _break(self, reason: str) -> None:
        logger.error("%s", reason, extra={"action": "engine_unhealthy"})
        self.healthy = False
        self._fail_all(lambda: EngineFailed(reason))
        self._on_unhealthy(reason)

    def check_integrity(self) -> None:
        """Raises AssertionError if the books of sequences and blocks do not agree."""
        self._scheduler.check_integrity()

    async def close(self) -> None:
        """Take nothing more; whoever still waits gets an error. Then close the engine."""
        if self._closed:
            return
        self._closed = True
        await self._tasks.close()
        self._fail_all(lambda: ModelUnavailable("the model is being unloaded"))
        if self._step is not None:
            self._end_chain()
            self._stepper.interrupt(self._step)
        self._intake.close()
        closing = self._chain.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await closing
        except TimeoutError:
            logger.error("the engine does not end its step", extra={"action": "engine_stuck"})


def _pages_read() -> int:
    """From a disk, because this process needed them and they were not in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _too_late(sequence: TokenSequence) -> DeadlineExceeded:
    return DeadlineExceeded(f"a prompt of {len(sequence.prompt)} tokens cannot be computed in the time that is left")
