"""llama.cpp's server, from the wheel of xllamacpp: MODEL PORT SLOTS THREADS."""

from __future__ import annotations

import sys
import threading

import xllamacpp

if __name__ == "__main__":
    model, port, slots, threads = sys.argv[1], *map(int, sys.argv[2:])
    options = xllamacpp.CommonParams()
    options.model.path = model
    options.hostnames, options.port = ["127.0.0.1"], port
    options.n_parallel, options.n_ctx = slots, 512 * slots
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(options)
    threading.Event().wait()
