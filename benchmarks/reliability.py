"""What becomes of requests when things break: `python benchmarks/reliability.py [--quick | --soak MINUTES]`.

For each fault: many streams over several workers, and a blow at a random moment. Every answer is compared, token by
token, with the one that the same request got in peace. Prints the table of docs/reliability.md.
"""

from __future__ import annotations

from faults.command import main

if __name__ == "__main__":
    main()
