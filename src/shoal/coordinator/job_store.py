"""Which jobs are kept. Time comes as an argument, on the loop's clock."""

from __future__ import annotations

from shoal.config import JobsConfig
from shoal.coordinator.answer_store import AnswerStore
from shoal.coordinator.job import Job
from shoal.errors import NotFound


class JobStore(AnswerStore[Job]):
    def __init__(self, config: JobsConfig) -> None:
        super().__init__("jobs", most=config.max_jobs, max_bytes=config.max_bytes, ttl=config.ttl)

    def get(self, job_id: str, now: float) -> Job:
        """Raises :class:`NotFound`."""
        job = self.find(job_id, now)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}; finished ones are kept for {self._ttl:g} s at most")
        return job
