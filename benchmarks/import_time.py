"""What `import stocnoise` costs beyond torch: `python -m benchmarks.import_time`. Each time in a process of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys

CODE = "import time, torch; start = time.perf_counter(); import stocnoise; print(time.perf_counter() - start)"


def main(times: int = 7) -> None:
    seconds = [float(subprocess.check_output([sys.executable, "-c", CODE])) for _ in range(times)]
    print(f"import stocnoise, after torch: median {statistics.median(seconds):.3f} s, worst {max(seconds):.3f} s")


if __name__ == "__main__":
    main()
