"""A file of your own as input, and the result back on disk.

Try it: `runware-flow emulate -- python examples/local_picture.py photo.png`
"""

import sys
from pathlib import Path

import anyio

from runware_flow import Client, RunwareError
from runware_flow.tasks import Caption, Upscale


async def main(photo: Path) -> None:
    async with Client() as client:
        try:  # a Path, bytes, a URL, a UUID or an earlier result: the same parameter takes them all
            (caption,) = await client.run(Caption(model="runware:150@2", inputs={"image": photo}))
            (big,) = await client.run(Upscale(model="runware:504@1", inputs={"image": photo}, upscale_factor=2))
        except RunwareError as error:
            sys.exit(f"{error.code}: {error.message}")
        path = await client.save(big, photo.with_name(f"{photo.stem}-big"))
    print(caption.text)
    print(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: local_picture.py PHOTO")
    anyio.run(main, Path(sys.argv[1]))
