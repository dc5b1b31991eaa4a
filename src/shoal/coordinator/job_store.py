"""Which jobs are kept. Time comes as an argument, on the loop's clock."""

from __future__ import annotations

from shoal.config import JobsConfig
from shoal.coordinator.job import Job
from shoal.errors import NotFound, Overloaded
from shoal.types import RequestId

RETRY_AFTER = 5.0  # seconds until a place may be free


class JobStore:
    """Bounded in number and in bytes. The first to finish is the first to go; an unfinished one is never dropped."""

    def __init__(self, config: JobsConfig) -> None:
        self.bytes_used = 0
        self._config = config
        self._jobs: dict[RequestId, Job] = {}
        self._sizes: dict[RequestId, int] = {}  # as counted last
        self._keys: dict[str, Job] = {}
        self._finished: dict[RequestId, Job] = {}  # in the order in which they finished and will expire

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job, now: float) -> None:
        """Raises :class:`Overloaded` when there is no room beside the unfinished ones."""
        self.expire(now)
        if len(self._jobs) >= self._config.max_jobs and not self._drop_oldest():
            raise Overloaded(f"at most {self._config.max_jobs} jobs at a time", retry_after=RETRY_AFTER)
        if self.bytes_used + job.size - self._finished_bytes() > self._config.max_bytes:
            raise Overloaded(f"jobs may have {self._config.max_bytes} bytes together", retry_after=RETRY_AFTER)
        self._jobs[job.id] = job
        self._sizes[job.id] = 0
        self.measure(job)
        if job.order.key:
            self._keys[job.order.key] = job

    def get(self, job_id: str, now: float) -> Job:
        """Raises :class:`NotFound`."""
        self.expire(now)
        job = self._jobs.get(RequestId(job_id))
        if job is None:
            kept = f"finished ones are kept for {self._config.ttl:g} s at most"
            raise NotFound(f"there is no job {job_id!r}; {kept}")
        return job

    def with_key(self, key: str, now: float) -> Job | None:
        self.expire(now)
        return self._keys.get(key)

    def measure(self, job: Job) -> int:
        """Count the job's bytes anew and drop finished jobs for them. Returns by how many bytes all that is left is
        too large."""
        if job.id not in self._sizes:
            return 0
        self.bytes_used += job.size - self._sizes[job.id]
        self._sizes[job.id] = job.size
        while self.bytes_used > self._config.max_bytes and self._drop_oldest(spared=job):
            pass
        return self.bytes_used - self._config.max_bytes

    def finished(self, job: Job, now: float) -> None:
        """The job has its final state; from now on its time runs."""
        job.expires = now + self._config.ttl
        if job.id in self._jobs:
            self._finished[job.id] = job

    def forget(self, job: Job) -> None:
        if self._jobs.pop(job.id, None) is None:
            return
        self.bytes_used -= self._sizes.pop(job.id)
        self._finished.pop(job.id, None)
        if self._keys.get(job.order.key) is job:
            del self._keys[job.order.key]

    def expire(self, now: float) -> None:
        while self._finished and (oldest := next(iter(self._finished.values()))).expires is not None:
            if oldest.expires > now:
                return
            self.forget(oldest)

    @property
    def next_expiry(self) -> float | None:
        oldest = next(iter(self._finished.values()), None)
        return None if oldest is None else oldest.expires

    def _finished_bytes(self) -> int:
        return sum(self._sizes[job_id] for job_id in self._finished)

    def _drop_oldest(self, spared: Job | None = None) -> bool:
        oldest = next((job for job in self._finished.values() if job is not spared), None)
        if oldest is None:
            return False
        self.forget(oldest)
        return True
