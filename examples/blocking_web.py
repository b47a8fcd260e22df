"""Blocking code in many threads, as in Django or Flask, that shares one client through a portal to an event loop.

Try it: `runware-flow emulate -- python examples/blocking_web.py "a red kite" "a lighthouse at dusk"`
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from anyio.from_thread import BlockingPortal, start_blocking_portal

from runware_flow import Client, Flow, FlowFailed, RunResult
from runware_flow.tasks import Caption, ImageInference


class Pictures:
    """What a blocking view calls. Threads may use it at once: the calls go over one connection."""

    def __init__(self, portal: BlockingPortal, client: Client) -> None:
        self._portal = portal
        self._client = client

    def caption(self, prompt: str) -> str | None:
        """Make a picture and describe it; blocks the calling thread, and no other."""
        flow = Flow("caption")
        image = flow.then(ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512))
        text = image.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))
        result: RunResult = self._portal.call(flow.execute, self._client)
        return result[text].text


def view(pictures: Pictures, prompt: str) -> str:
    try:
        return f"200 {pictures.caption(prompt)}"
    except FlowFailed as error:
        return f"502 {error.summary}"


def main(prompts: list[str]) -> None:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Client()) as client:
        pictures = Pictures(portal, client)
        with ThreadPoolExecutor(max_workers=8) as threads:  # stands for the server's
            for answer in threads.map(view, [pictures] * len(prompts), prompts):
                print(answer)


if __name__ == "__main__":
    main(sys.argv[1:] or ["a red kite"])
