"""A wall clock that jumps, for the processes under test alone: a small library between them and the C library."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

FILE = "FAULTS_CLOCK"  # names the file that holds the seconds to add, as a double

SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile double *offset;
static int (*real_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int file = open(getenv("FAULTS_CLOCK"), O_RDONLY);
    void *page = file < 0 ? MAP_FAILED : mmap(0, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    offset = page == MAP_FAILED ? 0 : page;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    if (!real_clock) real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock(id, at);
    if (offset && id == CLOCK_REALTIME) at->tv_sec += (time_t)*offset;
    return result;
}

time_t time(time_t *out) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (out) *out = at.tv_sec;
    return at.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    out->tv_sec = at.tv_sec;
    out->tv_usec = at.tv_nsec / 1000;
    return 0;
}
"""


class Clock:
    """``environment`` is for the processes whose clock it is. ``works``: there was a compiler."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "clock").open("w+b")
        self._file.write(bytes(mmap.PAGESIZE))
        self._file.flush()
        self._page = mmap.mmap(self._file.fileno(), mmap.PAGESIZE)
        library = _build(folder)
        self.works = library is not None
        self.environment = {FILE: str(folder / "clock"), "LD_PRELOAD": str(library)} if library else {}

    def set(self, offset: float) -> None:
        """Seconds by which the clock is wrong."""
        self._page[:8] = struct.pack("d", offset)

    def close(self) -> None:
        self._page.close()
        self._file.close()


def _build(folder: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(SOURCE)
    built = subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], capture_output=True)
    return library if built.returncode == 0 else None
