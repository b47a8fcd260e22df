"""The commands of the command line and their options; the code of each command is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from runware_flow.cli.cache import cache_app
from runware_flow.cli.journal import (
    JOURNAL_NAME,
    FlowName,
    JournalArgument,
    complete_path,
    journal_app,
    read_journal,
)
from runware_flow.cli.models import models_app
from runware_flow.cli.terminal import echo
from runware_flow.view.terminal import visible

__all__ = ("app",)

Backend: TypeAlias = Annotated[Literal["asyncio", "trio"], typer.Option(help="The event loop.")]

ProgressKind: TypeAlias = Literal["auto", "rich", "json", "off"]

Port: TypeAlias = Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535)]


def _python_files(incomplete: str) -> list[str]:
    """Complete FILE."""
    return [path for path in complete_path(incomplete) if path.endswith((".py", "/"))]


Target: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="The file, and the name of the flow in it.", metavar="FILE[:NAME]", autocompletion=_python_files
    ),
]
Params: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", help="A parameter of the function that builds the flow.", metavar="KEY=VALUE"),
]

ItemsFile: TypeAlias = Annotated[
    Path | None, typer.Option(help="The items of a Batch: a .csv, a .jsonl, or a text with a line for each.")
]

Limit: TypeAlias = Annotated[int | None, typer.Option(help="Read at most this many items.", min=1)]

LatencyText: TypeAlias = Annotated[
    str, typer.Option(help="Seconds a task takes: 0.05, a range such as 0.5..3, or by task type: caption=0.1,*=0.5")
]
Seed: TypeAlias = Annotated[int, typer.Option(help="What random choices start from.")]
Origins: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="A web page's origin that may use it, as http://localhost:3000. Pages of others may not.",
        metavar="ORIGIN",
    ),
]
Answers: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--answer",
        help="What a language model says to a message with TEXT in it; @FILE sends the JSON in a file.",
        metavar="TEXT=ANSWER",
    ),
]
ExtraModels: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model beyond the catalog, such as acme:1@1=caption.", metavar="AIR=TASKTYPE"),
]
HostNames: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="A host name it answers to, besides localhost and addresses.", metavar="NAME"),
]
Faults: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="A fault to show, such as fail:prompt=kite or kill:nth=5; may be given several times.",
        metavar="KIND[:KEY=VALUE,...]",
    ),
]

Files: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--files", help="A folder whose files may be shown; may be given several times.", metavar="FOLDER"),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        echo(f"runware-flow {version('runware-flow')}")
        raise typer.Exit


app = typer.Typer(
    name="runware-flow",
    help="Pipelines of generative media on the Runware API, and an emulator of it to try them on.",
    epilog="Begin with `runware-flow demo`, which needs no key. `runware-flow COMMAND --help` shows examples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and one-line errors, for people and for pipes
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.add_typer(models_app, name="models")
app.add_typer(journal_app, name="journal")
app.add_typer(cache_app, name="cache")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder for the pictures and the report.")] = Path("out"),
    backend: Backend = "asyncio",
) -> None:
    """Make, enlarge and describe six pictures on the emulator.

    No key, no network, no cost.
    """
    from functools import partial

    from runware_flow.cli.demo import PROMPTS, run_demo
    from runware_flow.interrupts import run_interruptible
    from runware_flow.view.progress import money

    echo(f"{len(PROMPTS)} prompts, three tasks each: generate, upscale, caption. The service is the emulator.")
    report = run_interruptible(partial(run_demo, out), backend=backend)
    echo()
    for picture, caption in report.pictures:
        echo(f"{picture}\n    {visible(caption)}")
    cost = "unknown" if report.cost is None else money(report.cost)
    tasks = 3 * len(report.pictures)
    echo()
    echo(f"{tasks} tasks in {report.seconds:.1f} s; a real service would have billed {cost}.")
    echo(f"The run on one page, pictures and captions included: {report.page}")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Port = 0,
    latency: LatencyText = "0.05",
    seed: Seed = 7,
    capacity: Annotated[
        int | None, typer.Option(help="Tasks it takes on at the same time; one more is refused with 429.", min=0)
    ] = None,
    closed_task: Annotated[
        Literal["unknown", "silent"],
        typer.Option(
            help="How a poll of a sync task that was already answered is answered: as an unknown task, or not at all."
        ),
    ] = "unknown",
    fault: Faults = None,
    backend: Backend = "asyncio",
    api_key: Annotated[str, typer.Option(help="The key it takes; without it a new one is made.", metavar="KEY")] = "",
    allow_origin: Origins = None,
    answer: Answers = None,
    model: ExtraModels = None,
    allow_host: HostNames = None,
) -> None:
    """Serve the emulator until interrupted.

    Prints one line of JSON with the options of a client: each is a keyword of Client, and RUNWARE_ with its name in
    capitals is the variable that sets it. To have the variables set for you, use `runware-flow emulate -- bash`.

    \b
    Examples:
      runware-flow serve --port 8700
      runware-flow serve --latency 0.5..3 --fault fail:every=10
    """
    from runware_flow.emulator.commands import serve_command

    options = _emulator_options(latency, seed, fault, allow_origin, answer, model)
    options |= {"capacity": capacity, "closed_task": closed_task, "api_key": api_key, "allow_host": allow_host or ()}
    raise typer.Exit(serve_command(host=host, port=port, backend=backend, **options))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    options_metavar="[OPTIONS] -- COMMAND [ARGS]...",
)
def emulate(
    command: typer.Context,
    latency: LatencyText = "0.05",
    seed: Seed = 7,
    fault: Faults = None,
    allow_origin: Origins = None,
    answer: Answers = None,
    model: ExtraModels = None,
) -> None:
    """Run a command with RUNWARE_* set to an emulator.

    The emulator stops when the command has ended. Around a shell it serves whatever you run in that shell.

    \b
    Examples:
      runware-flow emulate -- python examples/poster.py
      runware-flow emulate --fault fail:prompt=kite -- runware-flow run posters.py
      runware-flow emulate -- bash
    """
    from runware_flow.emulator.commands import emulate_command

    if not command.args:
        raise typer.BadParameter("name the command to run: runware-flow emulate -- python examples/poster.py")
    options = _emulator_options(latency, seed, fault, allow_origin, answer, model)
    raise typer.Exit(emulate_command(command.args, **options))


@app.command()
def collect(
    journal: JournalArgument,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each task that still runs.", min=0.0)] = 30.0,
    flow: FlowName = None,
    backend: Backend = "asyncio",
) -> None:
    """Fetch what a run had sent and not received.

    Buys nothing. The next run with the journal restores what was fetched.

    \b
    Example:
      runware-flow collect posters.sqlite
    """
    from runware_flow.cli.collect import collect_command

    raise typer.Exit(collect_command(journal, timeout=timeout, backend=backend, flow=flow))


@app.command(no_args_is_help=True)
def run(
    target: Target,
    param: Params = None,
    journal: Annotated[
        Any,
        typer.Option(
            parser=read_journal,
            help="A file or a postgresql:// URL that outlives a crash; the same command continues from it.",
            metavar=JOURNAL_NAME,
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page about the run, with the pictures in it.")] = None,
    budget: Annotated[float | None, typer.Option(help="The most that the run may spend, in USD.", min=0.0)] = None,
    concurrency: Annotated[int | None, typer.Option(help="The most nodes in flight at a time.", min=1)] = None,
    items: ItemsFile = None,
    key: Annotated[str | None, typer.Option(help="The column that names an item.", metavar="COLUMN")] = None,
    limit: Limit = None,
    live: Annotated[bool, typer.Option("--live", help="Serve a page that follows the run, on 127.0.0.1.")] = False,
    port: Annotated[int, typer.Option(help="The port of the page; 0 takes a free one.", min=0, max=65535)] = 0,
    progress: Annotated[ProgressKind, typer.Option(help="What is shown on standard error.")] = "auto",
    is_json: Annotated[bool, typer.Option("--json", help="Print the outcome of each node as JSON.")] = False,
    backend: Backend = "asyncio",
) -> None:
    """Run the flow, or the batch, in a Python file.

    The flow is NAME, else what is called `flow`, else the only Flow of the file. NAME may be a function that builds
    one; --param gives its parameters, converted by their annotations. Options win over the keywords of the Flow.

    \b
    Examples:
      runware-flow run poster.py --report out/report.html
      runware-flow run posters.py:build --param 'prompts=["a kite", "a boat"]' --param size=1024
      runware-flow run posters.py --journal posters.sqlite --budget 5
      runware-flow run posters.py --live                       (a page of pictures as they finish)
      runware-flow run posters.py:batch --items rows.csv --key id --journal posters.sqlite
      runware-flow emulate -- runware-flow run poster.py      (no key, no cost)

    \b
    Ctrl-C once: nothing new is sent, what is in flight is waited for. Twice: leave at once. Both say what may be
    billed.
    Exit codes: 0 done, 1 a node failed, 2 wrong usage, 130 interrupted.
    """
    from runware_flow.batch.batch import Batch
    from runware_flow.cli.program import UsageError, find_target
    from runware_flow.cli.run import run_command

    shown: Any = {"auto": True, "off": None}.get(progress, progress)
    given = {"budget": budget, "concurrency": concurrency}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    found = find_target(target, param or ())
    page = None
    if live:
        from runware_flow.cli.live import open_live_page

        shown = page = open_live_page(port)
    options["progress"] = shown
    if isinstance(found, Batch):
        from runware_flow.cli.batch import run_batch_command

        code = run_batch_command(
            found,
            items=items,
            key=key,
            limit=limit,
            report=report,
            journal=journal,
            is_json=is_json,
            backend=backend,
            options=options,
        )
    elif items is not None or key is not None or limit is not None:
        raise UsageError(f"--items, --key and --limit are for a Batch, and {target} is the Flow {found.name!r}")
    else:
        code = run_command(found, report=report, journal=journal, is_json=is_json, backend=backend, options=options)
    if page is not None:
        from runware_flow.cli.live import leave_open

        leave_open(page)
    raise typer.Exit(code)


@app.command(no_args_is_help=True)
def plan(
    target: Target,
    param: Params = None,
    journal: Annotated[
        Any,
        typer.Option(
            parser=read_journal,
            metavar=JOURNAL_NAME,
            help="The journal to learn prices from. The plan is of a run from the start, as if it were empty.",
        ),
    ] = None,
    prices: Annotated[
        bool, typer.Option("--prices", help="Ask the content service what the models cost; nothing is billed.")
    ] = False,
    items: ItemsFile = None,
    limit: Limit = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print the flow as a Mermaid diagram instead.")] = False,
    is_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Tell what a run would send and cost; sends none of it.

    \b
    Examples:
      runware-flow plan poster.py
      runware-flow plan poster.py --prices
      runware-flow plan posters.py:build --param count=100 --json
      runware-flow plan poster.py --mermaid
      runware-flow plan posters.py:batch --items rows.csv
    """
    from runware_flow.cli.plan import plan_batch_command, plan_command
    from runware_flow.cli.program import UsageError, find_flow, find_target

    if items is None:
        if limit is not None:
            raise UsageError("--limit is for the --items of a Batch")
        flow = find_flow(target, param or ())
        text = plan_command(flow, journal=journal, prices=prices, mermaid=mermaid, is_json=is_json)
    else:
        from runware_flow.batch.batch import Batch

        found = find_target(target, param or ())
        if not isinstance(found, Batch):
            raise UsageError(f"--items is for a Batch, and {target} is the Flow {found.name!r}")
        if prices or mermaid:
            raise UsageError("--prices and --mermaid are for a Flow; a Batch learns its prices from --journal")
        text = plan_batch_command(found, items, limit=limit, journal=journal, is_json=is_json)
    echo(text, is_laid_out=True)


@app.command(no_args_is_help=True)
def report(
    journal: JournalArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; by default beside the journal, named .html.")
    ] = None,
    flow: FlowName = None,
    files: Files = None,
) -> None:
    """Write a page about a journal.

    It shows a card for each item, with the files that were saved or that a cache keeps, then failures, stages, time
    line and receipt. A journal may name any file: shown are those below its own folder, and below --files.

    \b
    Examples:
      runware-flow report posters.sqlite
      runware-flow report posters.sqlite -o out/report.html --files ~/pictures
      runware-flow report postgresql://me@db.example/posters --flow posters
    """
    from runware_flow.cli.program import beside
    from runware_flow.runner.journal_report import journal_report
    from runware_flow.runner.report import check_target, write_report

    page = out or beside(journal, ".html")
    check_target(page)
    echo(write_report(journal_report(journal, page, flow=flow, files=files or ()), page))


@app.command(no_args_is_help=True)
def export(
    journal: JournalArgument,
    kind: Annotated[Literal["csv", "jsonl"], typer.Option("--format", help="What is written.")] = "csv",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; by default standard output.")] = None,
    flow: FlowName = None,
) -> None:
    """Write a row for each item of a journal: key, input, state, error, cost, texts, files, URLs.

    \b
    Example:
      runware-flow export posters.sqlite --format csv -o posters.csv
    """
    from runware_flow.cli.table import export_command

    export_command(journal, kind=kind, out=out, flow=flow)


@app.command(no_args_is_help=True)
def redo(
    journal: JournalArgument,
    keys: Annotated[
        list[str], typer.Argument(help="Keys of items, or names of nodes outside fan-outs.", metavar="KEY...")
    ],
    node: Annotated[str | None, typer.Option(help="Only this node of them, and what follows it.")] = None,
    back: Annotated[bool, typer.Option("--back", help="Take the marks back.")] = False,
    flow: FlowName = None,
) -> None:
    """Mark items to be bought anew by the next run.

    Says what they cost the last time. What was bought stays on record and on the receipt; what follows a node is
    bought anew because it is given something else. A key may be cut to its first letters, as pages show it.

    \b
    Examples:
      runware-flow redo posters.sqlite lighthouse 9f2c41aa
      runware-flow redo posters.sqlite lighthouse --node upscale
      runware-flow redo posters.sqlite lighthouse --back
    """
    from runware_flow.cli.redo import redo_command

    redo_command(journal, keys, node=node, is_marked=not back, flow=flow)


@app.command(no_args_is_help=True)
def view(
    journal: JournalArgument,
    flow: FlowName = None,
    files: Files = None,
    port: Port = 0,
) -> None:
    """Serve a page about a journal on 127.0.0.1.

    The page of `report`, which follows what a run writes meanwhile. Prints the address, which has a token in it, and
    serves until interrupted.

    \b
    Example:
      runware-flow view posters.sqlite
    """
    from runware_flow.cli.live import view_command

    raise typer.Exit(view_command(journal, flow=flow, files=files or (), port=port))


def _emulator_options(
    latency: str,
    seed: int,
    faults: list[str] | None,
    origins: list[str] | None,
    answers: list[str] | None,
    models: list[str] | None,
) -> dict[str, Any]:
    """Read the options that `serve` and `emulate` share."""
    from runware_flow.emulator.commands import parse_answers, parse_latency, parse_models
    from runware_flow.emulator.network.faults import parse_fault

    try:
        taken = parse_latency(latency)
    except ValueError:
        raise typer.BadParameter(f"{latency!r} is neither seconds (0.05) nor a range (0.5..3)") from None
    try:
        return {
            "latency": taken,
            "seed": seed,
            "faults": [parse_fault(text) for text in faults or ()],
            "allow_origin": origins or (),
            "answers": parse_answers(answers or ()),
            "models": parse_models(models or ()),
        }
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
