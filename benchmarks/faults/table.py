"""Verdicts as a table in markdown, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from faults.spans import STAGES
from faults.verdict import Verdict, quantile

HEAD = (
    "fault",
    "rounds",
    "sent",
    "taken up",
    "finished",
    "identical",
    "lost",
    "repeated",
    "changed",
    "failed",
    "hung",
    "stall p50",
    "stall p99",
    "noticed after",
    "left behind",
)


def markdown(verdicts: Sequence[Verdict]) -> str:
    tried = [verdict for verdict in verdicts if not verdict.skipped]
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * 2 + "|--:" * (len(HEAD) - 3) + "|---|"]
    lines += ["| " + " | ".join(row(verdict)) + " |" for verdict in tried]
    lines += [f"\nNot tried: {verdict.fault}: {verdict.skipped}." for verdict in verdicts if verdict.skipped]
    return "\n".join(lines)


def explained(verdicts: Sequence[Verdict]) -> str:
    """Where the pauses of those went that were taken up; p50 and p99 of each, in seconds."""
    head = ("fault", "answers", "pause", *STAGES, "in peace: computed again", "beyond that", "pause of the others")
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for verdict in verdicts:
        columns = [[pause.seconds for pause in verdict.pauses]]
        columns += [[pause.stages[stage] for pause in verdict.pauses] for stage in STAGES]
        columns += [verdict.again, verdict.beyond, verdict.others]
        cells = [f"{quantile(column, 50):.2f} / {quantile(column, 99):.2f}" for column in columns]
        lines.append("| " + " | ".join((verdict.fault, str(len(verdict.pauses)), *cells)) + " |")
    return "\n".join(lines)


def row(verdict: Verdict) -> list[str]:
    answers = verdict.answers
    counts = (answers["lost"], answers["repeated"], answers["changed"] + answers["ended twice"])
    return [
        verdict.fault,
        str(verdict.rounds),
        str(verdict.sent),
        str(verdict.moved),
        str(verdict.ended["finished"]),
        str(answers["identical"]),
        *map(str, counts),
        named(+Counter({end: n for end, n in verdict.ended.items() if end not in ("finished", "hung")})) or "0",
        str(verdict.ended["hung"]),
        f"{verdict.stall(50):.2f} s",
        f"{verdict.stall(99):.2f} s",
        seconds(verdict.noticed),
        named(verdict.left) or "nothing",
    ]


def seconds(noticed: Sequence[float | None]) -> str:
    seen = sorted(at for at in noticed if at is not None)
    if not seen:
        return "not"
    one = f"{seen[0]:.2f} s" if len(seen) == 1 else f"{seen[0]:.2f} to {seen[-1]:.2f} s"
    return one if len(seen) == len(noticed) else f"{one}, {len(noticed) - len(seen)} times not"


def named(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def plain(verdict: Verdict) -> dict[str, Any]:
    if verdict.skipped:
        return {"fault": verdict.fault, "skipped": verdict.skipped}
    stalls = {"others": verdict.others, "computed_again": verdict.again, "beyond": verdict.beyond}
    return {
        "fault": verdict.fault,
        "rounds": verdict.rounds,
        "sent": verdict.sent,
        "taken_up": verdict.moved,
        "ended": dict(verdict.ended),
        "answers": dict(verdict.answers),
        "stall_p50": round(verdict.stall(50), 3),
        "stall_p99": round(verdict.stall(99), 3),
        "noticed": [None if at is None else round(at, 3) for at in verdict.noticed],
        "signs": dict(verdict.signs),
        "left": dict(verdict.left),
        **{name: [round(each, 3) for each in sorted(times)] for name, times in stalls.items() if times},
    }
