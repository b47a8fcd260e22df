"""The commands `serve` (an emulator until a signal) and `emulate` (an emulator around a command).

No command-line library here: these functions take plain values and return exit codes, and what goes wrong is one
sentence on standard error.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.emulator.emulator import Emulator, run_in_thread
from runware_flow.emulator.service.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from runware_flow.emulator.settings import Latency

__all__ = ("emulate_command", "environment", "parse_answers", "parse_latency", "parse_models", "serve_command")


def parse_latency(text: str) -> Latency:
    """Read a latency: `0.05`, a range `0.02..0.2`, or either by task type: `imageInference=0.2..0.5,*=0.05`.

    Raises:
        ValueError: it is none of these.
    """
    if "=" in text:
        pairs = (part.partition("=") for part in text.split(","))
        return {name.strip(): _parse_span(span) for name, _, span in pairs}
    return _parse_span(text)


def parse_answers(texts: Iterable[str]) -> dict[str, Any]:
    """Read scripted answers of language models: `TEXT=ANSWER`, or `TEXT=@FILE` for the JSON in a file.

    Raises:
        ValueError: one has no `=` or no text before it, or its file is not there or no JSON.
    """
    answers: dict[str, Any] = {}
    for text in texts:
        part, equals, said = text.partition("=")
        if not part or not equals:
            raise ValueError(f"{text!r} is not an answer: write TEXT=ANSWER, or TEXT=@FILE for the JSON in a file")
        if said.startswith("@"):
            try:
                answers[part] = json.loads(Path(said[1:]).expanduser().read_text(encoding="utf-8"))
            except OSError as error:
                raise ValueError(f"cannot read {said[1:]!r}: {error.strerror or error}") from None
            except ValueError:
                raise ValueError(f"{said[1:]!r} is not JSON") from None
        else:
            answers[part] = said
    return answers


def parse_models(texts: Iterable[str]) -> dict[str, str]:
    """Read models beyond the catalog, `AIR=taskType`.

    Raises:
        ValueError: one is written otherwise, or its task type does not exist.
    """
    models: dict[str, str] = {}
    for text in texts:
        air, _, task_type = text.partition("=")
        if not re.fullmatch(r"[^:@\s]+:[^@\s]+@\S+", air) or task_type not in KINDS:
            raise ValueError(f"{text!r} is not a model: write AIR=taskType, with one of {', '.join(KINDS)}")
        models[air] = task_type
    return models


def _parse_span(text: str) -> float | tuple[float, float]:
    low, dots, high = text.partition("..")
    return (float(low), float(high)) if dots else float(low)


def environment(emulator: Emulator) -> dict[str, str]:
    """Return the variables that point a client at this emulator."""
    return {f"RUNWARE_{name.upper()}": str(value) for name, value in emulator.client_options.items()}


def serve_command(*, host: str = "127.0.0.1", port: int = 0, backend: str = "asyncio", **options: Any) -> int:
    """Serve until SIGINT or SIGTERM, after one line of JSON on standard output that says where.

    `options` are those of `Emulator`.
    """
    try:
        emulator = Emulator(host=host, port=port, **options)
        anyio.run(_serve, emulator, backend=backend)
    except (OSError, ValueError) as error:
        return _report_error(f"cannot serve on {host} port {port}: {error}")
    return 0


async def _serve(emulator: Emulator) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with emulator:
            sys.stdout.write(json.dumps(emulator.client_options) + "\n")
            sys.stdout.flush()
            async for _ in signals:
                return


def emulate_command(argv: Sequence[str], **options: Any) -> int:
    """Start an emulator, run a command whose environment names it, and return the command's exit code.

    SIGINT and SIGTERM go to the command; the emulator stops when the command has ended. A command that a signal ended
    gives 128 and the signal's number, one that cannot be started 127. `options` are those of `Emulator`.
    """
    try:
        with run_in_thread(**options) as emulator:
            process = subprocess.Popen(list(argv), env={**os.environ, **environment(emulator)})
            with _forwarding(process):
                code = process.wait()
    except ValueError as error:
        return _report_error(str(error))
    except OSError as error:
        return _report_error(f"cannot run {argv[0]}: {error.strerror or error}", 127)
    return code if code >= 0 else 128 - code


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Generator[None]:
    """Pass SIGTERM on to the command; a terminal's SIGINT reaches it anyway, so here it is only outlived."""

    def forward(number: int, _frame: object) -> None:
        if number == signal.SIGTERM:
            process.terminate()

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report_error(message: str, code: int = 1) -> int:
    sys.stderr.write(message + "\n")
    return code
