"""How OpenVINO is to use the processor, whatever it computes."""

from __future__ import annotations

import openvino as ov


def cpu_settings(core: ov.Core, threads: int) -> dict[str, str]:
    """Exactly so many threads, and bf16 where the CPU has instructions for it."""
    fast = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(threads),
        # Each process counts the cores from zero: pinned, the engines of one machine would share the first few.
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
    }
