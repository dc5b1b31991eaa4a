"""Heavy steps in processes of their own against in the engine's: `python benchmarks/preprocessing.py [--clients 8]`.

Each client sends scans of one line, JPEG files of some megapixels, to the built-in `ocr`, over the native protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import statistics
import time

import msgspec
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from serving import shoal

from shoal.client import AsyncClient
from shoal.config import Config, cache_folder
from shoal.model_store import no_progress, pull
from shoal.types import Array

HEIGHT = 800  # pixels
PROCESSES = (0, 1, 2)


class Result(msgspec.Struct):
    pictures_per_second: float
    latency: float  # seconds, median


def text(client: int) -> str:
    return f"Many small fish move as one, {client:02}"


def scan(client: int) -> Array:
    """A line of text with the noise of a camera, as JPEG: BYTES of shape (1, 1)."""
    font = ImageFont.load_default(HEIGHT * 0.6)
    width = int(font.getlength(text(client))) + HEIGHT
    page = Image.new("RGB", (width, HEIGHT), "white")
    ImageDraw.Draw(page).text((HEIGHT // 2, HEIGHT // 8), text(client), fill="black", font=font)
    noise = np.random.default_rng(client).integers(-12, 13, (HEIGHT, width, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(page) + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return np.array([[file.getvalue()]], np.object_)


async def measure(address: str, scans: list[Array], requests: int) -> Result:
    latencies: list[float] = []

    async def ask(client: AsyncClient, number: int, times: int) -> None:
        for _ in range(times):
            began = time.perf_counter()
            answer = await client.infer("ocr", {"image": scans[number]})
            latencies.append(time.perf_counter() - began)
            assert answer["text"][0, 0].decode() == text(number), answer

    async with AsyncClient(address, timeout=120) as client:
        await asyncio.gather(*(ask(client, number, 1) for number in range(len(scans))))  # warms up
        latencies.clear()
        began = time.perf_counter()
        await asyncio.gather(*(ask(client, number, requests) for number in range(len(scans))))
        return Result(len(latencies) / (time.perf_counter() - began), statistics.median(latencies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=5, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pull("ocr", cache_folder(Config()), no_progress)
    scans = [scan(number) for number in range(options.clients)]
    with Image.open(io.BytesIO(scans[0][0, 0])) as image:
        size = f"{image.width * image.height / 1e6:.0f} megapixels in {len(scans[0][0, 0]) / 1e6:.1f} MB"
    load = os.getloadavg()[0]
    print(f"{options.clients} clients, {size}, {len(os.sched_getaffinity(0))} cores, load before: {load:.2f}")
    ratios: dict[int, list[float]] = {processes: [] for processes in PROCESSES[1:]}
    for round_number in range(1, options.rounds + 1):
        results: dict[int, Result] = {}
        for processes in PROCESSES:
            # One worker, which has all cores.
            with shoal("ocr", "--workers", "1", "--preproc-processes", str(processes)) as address:
                results[processes] = asyncio.run(measure(address, scans, options.requests))
        for processes, found in ratios.items():
            found.append(results[processes].pictures_per_second / results[0].pictures_per_second)
        told = "; ".join(
            f"{processes} processes {result.pictures_per_second:.1f} pictures/s, {result.latency * 1e3:.0f} ms"
            for processes, result in results.items()
        )
        print(f"round {round_number}: {told}")
    for processes, found in ratios.items():
        median = statistics.median(found)
        print(f"ratio with {processes}: {median:.2f} (lowest {min(found):.2f}, highest {max(found):.2f})")


if __name__ == "__main__":
    main()
