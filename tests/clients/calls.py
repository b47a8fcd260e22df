"""What the scripts for Python clients share: calls by name, each with the answers it must get, and a report in JSON.

Runs in the environment of the client, so it imports nothing else.
"""

import asyncio
import json
import os
import sys
import traceback

PICTURE = "https://example.com/photo.jpg"
FILM = "https://example.com/film.mp4"
TEXT_MODEL = "google:gemma@4-31b"


def setting(name):
    return os.environ[f"RUNWARE_{name.upper()}"]


def check(holds, *what):
    if not holds:
        raise AssertionError(f"unexpected: {what!r}")


async def raises(kind, awaitable, *parts):
    """Return the exception; its text must have these parts."""
    try:
        found = await awaitable
    except kind as error:
        for part in parts:
            check(part in f"{error} {vars(error)}", part, str(error))
        return error
    raise AssertionError(f"no error: {found!r}")


def report(calls, seconds=25):
    """Run all calls side by side, each with a client of its own; print what went wrong with each, or null."""

    async def run(call):
        try:
            await asyncio.wait_for(call(), seconds)
        except Exception as error:  # noqa: BLE001 - it is reported
            traceback.print_exc(file=sys.stderr)
            return f"{type(error).__name__}: {error}"[:300]
        return None

    async def main():
        found = await asyncio.gather(*map(run, calls))
        return {call.__name__.replace("_", " "): error for call, error in zip(calls, found, strict=True)}

    sys.stdout.write(json.dumps(asyncio.run(main())) + "\n")
