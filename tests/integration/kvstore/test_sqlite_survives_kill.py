"""A process that is killed while it writes leaves a file that opens, is whole, and is warm."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from shoal.kvstore import SqliteStore

MAX_BYTES = 4 * 2**20
WRITER = """
import sys, time
from pathlib import Path
from shoal.kvstore.sqlite import Entry, SqliteStore
store = SqliteStore(Path(sys.argv[1]), max_bytes=int(sys.argv[2]), clock=time.time)
for round in range(10**9):
    store.set_many([Entry(b"%d" % (round * 50 + n), b"%d " % n * 500, 3600.0) for n in range(50)])
    print(round, flush=True)
"""


@pytest.mark.parametrize("rounds", [1, 7, 40, 200])
def test_a_killed_writer_leaves_whole_entries_of_every_round_that_it_reported(tmp_path: Path, rounds: int) -> None:
    path = tmp_path / "cache.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(MAX_BYTES)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        last = [int(writer.stdout.readline()) for _ in range(rounds)][-1]
        writer.kill()
    with closing(SqliteStore(path, max_bytes=MAX_BYTES, clock=time.time)) as store:
        store.check_integrity()
        for n in range(50):  # the last round that was reported is the youngest: nothing has evicted it
            found = store.get(b"%d" % (last * 50 + n))
            assert found is not None
            assert found.value == b"%d " % n * 500
        assert store.damaged == 0
        assert store.set(b"new", b"1")
