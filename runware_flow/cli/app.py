"""The commands and their options; what they do is done elsewhere, and imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from runware_flow.cli.journal import journal_app
from runware_flow.cli.models import models_app

__all__ = ("app",)

Backend: TypeAlias = Literal["asyncio", "trio"]

app = typer.Typer(
    name="runware-flow",
    help="Pipelines of generative media on the Runware API, and an emulator of it to try them on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and one-line errors, for people and for pipes
)

app.add_typer(models_app, name="models")
app.add_typer(journal_app, name="journal")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder for pictures and captions.")] = Path("out"),
    backend: Annotated[Backend, typer.Option(help="The event loop.")] = "asyncio",
) -> None:
    """Make, enlarge and describe six pictures on the emulator: no key, no network, no cost."""
    import anyio

    from runware_flow.cli.demo import PROMPTS, run_demo
    from runware_flow.view.progress import money

    print(
        f"{len(PROMPTS)} prompts, three tasks each: generate, upscale, caption. The service is the emulator.",
        flush=True,
    )
    report = anyio.run(run_demo, out, backend=backend)
    print()
    for item in report.items:
        print(f"{item.picture}\n    {item.caption}")
    cost = "unknown" if report.cost is None else money(report.cost)
    tasks = 3 * len(report.items)
    print(f"\n{tasks} tasks in {report.seconds:.1f} s; a real service would have billed {cost}.")
    print(f"The pictures with their captions, on one page: {report.summary}")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535)] = 0,
    latency: Annotated[
        str, typer.Option(help="Seconds a task takes: 0.05, a range such as 0.5..3, or by task type: caption=0.1,*=0.5")
    ] = "0.05",
    seed: Annotated[int, typer.Option(help="What random choices start from.")] = 7,
    fault: Annotated[list[str] | None, typer.Option(help="A fault to show; may be given several times.")] = None,
    backend: Annotated[Backend, typer.Option(help="The event loop.")] = "asyncio",
) -> None:
    """Serve the emulator until interrupted; prints one line of JSON with the options of a client."""
    from runware_flow.emulator.commands import serve_command

    taken = _latency(latency)
    raise typer.Exit(serve_command(host=host, port=port, latency=taken, seed=seed, faults=fault or (), backend=backend))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def emulate(
    command: typer.Context,
    latency: Annotated[
        str, typer.Option(help="Seconds a task takes: 0.05, a range such as 0.5..3, or by task type: caption=0.1,*=0.5")
    ] = "0.05",
    seed: Annotated[int, typer.Option(help="What random choices start from.")] = 7,
    fault: Annotated[list[str] | None, typer.Option(help="A fault to show; may be given several times.")] = None,
) -> None:
    """Run a command with RUNWARE_* set to an emulator: runware-flow emulate -- python examples/poster.py."""
    from runware_flow.emulator.commands import emulate_command

    if not command.args:
        raise typer.BadParameter("name the command to run: runware-flow emulate -- python examples/poster.py")
    raise typer.Exit(emulate_command(command.args, latency=_latency(latency), seed=seed, faults=fault or ()))


@app.command()
def collect(
    journal: Annotated[Path, typer.Argument(help="The journal of a run that ended early.", metavar="JOURNAL")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each task that still runs.", min=0.0)] = 30.0,
    backend: Annotated[Backend, typer.Option(help="The event loop.")] = "asyncio",
) -> None:
    """Fetch what a run had sent and not received; buys nothing. The next run with the journal restores it."""
    from runware_flow.cli.collect import collect_command

    raise typer.Exit(collect_command(journal, timeout=timeout, backend=backend))


def _latency(text: str) -> Any:
    from runware_flow.emulator.commands import parse_latency

    try:
        return parse_latency(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither seconds (0.05) nor a range (0.5..3)") from None
