"""What `import runware_flow` costs, and the time until the first Flow with tasks exists (best of ten processes)."""

from __future__ import annotations

import subprocess
import sys

STAGES = {
    "python -c pass": "pass",
    "import runware_flow": "import runware_flow",
    "first Flow with three tasks": """
from runware_flow import Flow
from runware_flow.tasks import Caption, ImageInference, Upscale
flow = Flow("first")
art = flow.then(ImageInference(model="runware:400@1", positive_prompt="A lighthouse", width=1024, height=1024))
big = art.then(lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2))
text = big.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))
""",
    "import anyio": "import anyio",
    "import httpx": "import httpx",
    "import runware (official SDK)": "import runware",
}


def seconds(program: str) -> float:
    """Wall time of a fresh interpreter that runs `program`, measured from inside, start-up left out."""
    timed = f"import time\nstart = time.perf_counter()\n{program}\nprint(time.perf_counter() - start)"
    runs = [
        subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True) for _ in range(10)
    ]
    return min(float(run.stdout) for run in runs)


def main() -> None:
    """Print one line a stage."""
    for name, program in STAGES.items():
        print(f"{name:32} {seconds(program) * 1000:7.1f} ms")


if __name__ == "__main__":
    main()
