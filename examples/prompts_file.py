"""Many prompts, a bounded number at a time: one JSON line for each, as it finishes; a failure stops no other.

Try it: `runware-flow emulate -- python examples/prompts_file.py prompts.txt captions.jsonl`
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio

from runware_flow import Abandoned, Failed, Flow, Ok, Skipped
from runware_flow.tasks import Caption, ImageInference


def picture(prompt: str) -> ImageInference:
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512)


async def main(source: Path, target: Path) -> None:
    def prompts() -> Iterator[str]:  # made anew for each run, and read as slots become free
        with source.open(encoding="utf-8") as lines:
            yield from filter(None, map(str.strip, lines))

    flow = Flow("captions", concurrency=8, on_error="continue")
    images = flow.map(prompts, picture, label="picture", retry=2)
    captions = images.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption")

    done = 0
    with target.open("w", encoding="utf-8") as out:
        async with flow.start() as run:
            async for index, outcome in run.as_completed(captions):
                match outcome:
                    case Ok(caption):
                        line = {"index": index, "caption": caption.text}
                        done += 1
                    case Failed(error):
                        line = {"index": index, "error": str(error)}
                    case Skipped(because, error):
                        line = {"index": index, "error": f"{because}: {error}"}
                    case Abandoned(task_uuid):
                        line = {"index": index, "error": f"abandoned in flight, task {task_uuid}"}
                out.write(json.dumps(line) + "\n")
    print(f"{done} captions in {target}, {run.result.cost} USD")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
