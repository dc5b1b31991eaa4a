"""Real children: started, stopped, killed, and the words for how they ended."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from shoal.launchers.local import ChildProcess, RestartPolicy, describe_exit, keep_running

SLEEP = "import time; time.sleep(60)"
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
print(child.pid, child.stdout.readline().decode(), flush=True)
time.sleep(60)
"""
BOUND = """
import os, signal, time
from shoal.launchers.local import end_with_parent
end_with_parent()
print("bound", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(60)
"""
STUBBORN = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); open(sys.argv[1], 'w'); time.sleep(60)"


async def child(code: str, *arguments: str, **options: object) -> ChildProcess:
    command = [sys.executable, "-c", code, *arguments]
    return await ChildProcess.start("child", command, **options)  # type: ignore[arg-type]


async def stubborn_child(sign: Path) -> ChildProcess:
    """A child that ignores SIGTERM; returned once it does."""
    process = await child(STUBBORN, str(sign))
    async with asyncio.timeout(10):
        while not sign.exists():
            await asyncio.sleep(0.01)
    return process


async def test_a_child_that_fails_says_so_with_its_last_words() -> None:
    process = await child("import sys; sys.exit('out of water')")
    assert await process.wait() == "exited with code 1: out of water"


async def test_a_killed_child_names_the_signal() -> None:
    process = await child(SLEEP)
    os.kill(process.pid, 9)
    assert await process.wait() == "killed by SIGKILL"


async def test_stop_ends_a_child_that_listens() -> None:
    process = await child(SLEEP)
    await process.stop()
    assert process.returncode == -15


async def test_a_child_can_be_killed_at_once_and_again(tmp_path: Path) -> None:
    process = await stubborn_child(tmp_path / "sign")
    process.kill()
    process.kill()
    await process.stop()
    assert await process.wait() == "killed by SIGKILL"
    process.kill()  # nobody is there any more


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_stopped_child_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, BOUND], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, said = parent.stdout.readline().split()
        child = psutil.Process(int(pid))
        assert said == b"bound"
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=10)
    left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]  # who adopted it may not look
    for process in left:
        process.kill()
    assert not left


async def test_stop_kills_a_child_that_does_not(tmp_path: Path) -> None:
    process = await stubborn_child(tmp_path / "sign")
    await process.stop(timeout=0.2)
    assert process.returncode == -9


async def test_a_cancelled_stop_leaves_no_child(tmp_path: Path) -> None:
    process = await stubborn_child(tmp_path / "sign")
    stopping = asyncio.create_task(process.stop(timeout=60))
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert await process.wait() == "killed by SIGKILL"


async def test_environment_and_cores_reach_the_child() -> None:
    core = min(os.sched_getaffinity(0))
    code = "import os, sys; sys.exit(os.environ['FISH'] + str(os.sched_getaffinity(0)))"
    process = await child(code, environment={"FISH": "herring"}, cpus=[core])
    assert await process.wait() == f"exited with code 1: herring{{{core}}}"


async def test_a_very_long_line_does_not_stop_the_reading() -> None:
    process = await child("import sys; sys.stderr.write('x' * 100_000 + '\\n'); sys.exit('the end')")
    assert (await process.wait()).endswith("the end")


async def test_lines_of_a_child_that_keeps_no_log_are_records_of_ours(
    caplog: pytest.LogCaptureFixture, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    words = "import sys; sys.stderr.write('a fish\\n\\nanother\\n'); sys.exit(1)"
    assert await (await child(words, logs=False)).wait() == "exited with code 1: another"
    assert capfdbinary.readouterr().err == b""
    assert [(record.getMessage(), record.__dict__["action"]) for record in caplog.records] == [
        ("child: a fish", "child_wrote"),
        ("child: another", "child_wrote"),
    ]
    assert await (await child(words)).wait() == "exited with code 1: another"
    assert capfdbinary.readouterr().err == b"a fish\n\nanother\n"


async def test_a_child_that_always_dies_is_given_up_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.launchers.local.MAX_CRASHES", 2)
    starts = []

    async def start() -> ChildProcess:
        starts.append(1)
        return await child("import sys; sys.exit('no water')")

    assert await keep_running("fish", start, stop_timeout=1) == "exited with code 1: no water"
    assert len(starts) == 2


def test_words_for_ends() -> None:
    assert describe_exit(-11, []) == "killed by SIGSEGV"
    assert describe_exit(0, ["registered with a coordinator"]) == "exited with code 0"
    assert describe_exit(3, ["first", "second", " "]) == "exited with code 3: second"


def test_pauses_grow_until_a_long_life_and_end_in_a_crash_loop() -> None:
    policy = RestartPolicy()
    assert [policy.delay(1) for _ in range(3)] == [0.5, 1.0, 2.0]
    assert policy.delay(61) == 0.5
    assert [policy.delay(1) for _ in range(4)] == [1.0, 2.0, 4.0, None]


async def test_a_child_that_ends_in_order_is_started_again_however_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.launchers.local.MAX_CRASHES", 2)
    monkeypatch.setattr("shoal.launchers.local.RestartPolicy.PAUSE", 0.01)
    endings = iter(["0", "0", "0", "'no water'", "0", "'no water'"])

    async def start() -> ChildProcess:
        return await child(f"import sys; sys.exit({next(endings)})")

    assert await keep_running("fish", start, stop_timeout=1) == "exited with code 1: no water"
    assert next(endings, None) is None


def test_ends_in_order_are_paced_but_are_no_crashes() -> None:
    policy = RestartPolicy()
    pauses = [policy.delay(1, crashed=False) for _ in range(9)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == 30.0
    assert policy.crashes == 0
