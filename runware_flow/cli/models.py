"""`runware-flow models`: the models, the parameters of one, and what is new since this package was made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runware_flow.cli.terminal import echo, echo_json, say
from runware_flow.interrupts import run_interruptible
from runware_flow.view.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from runware_flow.catalog.changes import ModelChange, RegistryChanges
    from runware_flow.catalog.search import ModelCard
    from runware_flow.catalog.surface import Parameter
    from runware_flow.client.client import Client
    from runware_flow.wire.content import ContentModel

__all__ = ("models_app",)

models_app = typer.Typer(help="Which models there are, and what they take.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_LONGEST_LIST = 8
"""Allowed values that are shown; of more, the first ones and a count."""


@models_app.command()
def search(
    text: Annotated[
        list[str] | None,
        typer.Argument(help="Words: a name, a slug, an AIR, or what the model does.", metavar="[TEXT]..."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="A task type or an operation: caption, remove-background.")] = None,
    modality: Annotated[str | None, typer.Option(help="What comes out: image, video, audio, text or 3d.")] = None,
    creator: Annotated[str | None, typer.Option(help="Who makes it: google, bfl, black-forest-labs.")] = None,
    capability: Annotated[str | None, typer.Option(help="What it can: io:text-to-image, text-to-speech.")] = None,
    takes: Annotated[
        list[str] | None,
        typer.Option(help="A parameter that it takes, or NAME=VALUE: outputFormat=JSON.", metavar="NAME[=VALUE]"),
    ] = None,
    category: Annotated[
        str | None, typer.Option(help="With --community the kind of model: checkpoint, lora, ...; else as --modality.")
    ] = None,
    limit: Annotated[int, typer.Option(help="The most models to list.", min=1, max=1000)] = 20,
    community: Annotated[bool, typer.Option("--community", help="Search all models that the account can use.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find curated models by name, by what they do, and by what they take; needs no key.

    Prints AIR, slug, task type and price. Without words it lists all that fit the options. With --community it searches
    by name among all others too, which needs RUNWARE_API_KEY.

    \b
    Examples:
      runware-flow models search remove background
      runware-flow models search text to speech --creator google
      runware-flow models search --takes outputFormat=JSON
    """
    words = " ".join(text or ())
    if community:
        filters = {"--task": task, "--modality": modality, "--creator": creator, "--capability": capability}
        given = [name for name, value in {**filters, "--takes": takes}.items() if value]
        if given:
            raise typer.BadParameter(f"--community cannot be combined with {', '.join(given)}; use --category")
        # The service takes no more than a hundred at once.
        found = _run(lambda client: _search_all(client, words, category, min(limit, 100)), needs_key=True)
    else:
        cards = _run(
            lambda client: _search_curated(
                client,
                words,
                task=task,
                modality=modality or category,
                creator=creator,
                capability=capability,
                takes=takes or (),
            )
        )
        found = [_card(one) for one in cards[:limit]]
        if len(cards) > limit and not as_json:
            say(f"the first {limit} of {len(cards)}; --limit {len(cards)} shows all")
    if as_json:
        echo_json(found, indent=2)
    elif found:
        _print_table([[one[name] or "" for name in ("air", "slug", "taskType", "price")] for one in found])
    elif community:
        echo(f"no model is called {words!r}")
    else:
        echo(f"no curated model fits {words!r}; --community searches all others" if words else "no curated model fits")
    raise typer.Exit(0 if found else 1)


@models_app.command()
def show(
    model: Annotated[str, typer.Argument(help="The AIR or the slug of a model.", metavar="MODEL")],
    as_json: AsJson = False,
) -> None:
    """Show what a model takes and costs; needs no key.

    \b
    Example:
      runware-flow models show runware:400@1
    """
    found = _run(lambda client: _describe(client, model))
    if found["taskType"] is None and found["name"] is None:
        say(f"nothing is known of {model}{_meant(model)}; a community model is named by its AIR and a taskType")
        raise typer.Exit(1)
    if as_json:
        echo_json(found, indent=2)
    else:
        _print_model(found)


@models_app.command()
def refresh(as_json: AsJson = False) -> None:
    """Show which models are new.

    Fetches the list from the service, and compares it with that of this package. Clients fetch it by themselves when
    they need it, so nothing is stored.
    """
    from runware_flow.catalog import load_registry
    from runware_flow.catalog.changes import compare_registries

    changes = compare_registries(load_registry(), _run(lambda client: client.refresh_registry()))
    if as_json:
        import msgspec

        echo_json(msgspec.to_builtins(changes), indent=2)
    else:
        _print_changes(changes)


def _meant(model: str) -> str:
    from runware_flow.catalog import load_registry

    like = load_registry().suggest(model)
    return f" (is it {' or '.join(like)}?)" if like else ""


# Requests


def _run(request: Callable[[Client], Awaitable[Any]], *, needs_key: bool = False) -> Any:
    """Make a request with a client of its own. What is public needs no key, so any text will do as one."""
    from runware_flow.client.client import Client

    async def main() -> Any:
        key = None if needs_key or os.environ.get("RUNWARE_API_KEY") else "none"
        async with Client(key, transport="rest", max_retries=1) as client:
            return await request(client)

    return run_interruptible(main)


async def _search_all(client: Client, text: str, category: str | None, limit: int) -> list[dict[str, Any]]:
    from msgspec import UNSET

    from runware_flow.catalog.search import ModelCard

    found = await client.model_search(text, category=category or UNSET, limit=limit)
    registry = client.registry
    cards: list[dict[str, Any]] = []
    for one in found.results or ():
        entry = registry.models.get(one.get("air") or "")
        card = ModelCard(
            air=one.get("air") or "",
            slug=entry.slug if entry else None,
            name=one.get("name"),
            task_type=entry.task_type if entry else None,
            architecture=one.get("architecture"),
        )
        cards.append(_card(card))
    return cards


async def _search_curated(client: Client, text: str, **filters: Any) -> list[ModelCard]:
    from runware_flow.catalog import schemas
    from runware_flow.catalog.search import list_models, search_models
    from runware_flow.errors import RunwareError

    known = schemas()["modelParams"]
    search_models(list_models(client.registry, known), text, **filters, schemas=known)  # a slip costs no request
    try:
        described = await client.content.list_models()
    except RunwareError as error:
        say(f"only the catalog of this package is searched, without prices: {error}")
        described = []
    return search_models(list_models(client.registry, known, described), text, **filters, schemas=known)


def _card(card: ModelCard) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(card)
    return plain


async def _describe(client: Client, model: str) -> dict[str, Any]:
    from runware_flow.catalog import resolve_model
    from runware_flow.errors import RunwareError

    if client.registry.models.get(client.registry.airs.get(model, model)) is None:
        try:
            await client.refresh_registry()
        except RunwareError as error:
            say(f"the list of models could not be fetched, so only older ones are known: {error}")
    air, task_type = resolve_model(model, client.registry)
    content: ContentModel | None = None
    try:
        content = await client.content.get_model(air)
    except RunwareError as error:
        say(f"without description and price: {error}")
    entry = client.registry.models.get(air)
    parameters = _parameters(air, task_type)
    creator = air.partition(":")[0]
    return {
        "air": air,
        "slug": entry.slug if entry else content and content.model,
        "taskType": task_type,
        "name": content and content.name,
        "architecture": content and content.architecture,
        "status": content and content.status,
        "headline": content and content.headline,
        "pricing": content and content.pricing_overview,
        "pricingExamples": [
            {"configuration": one.configuration, "price": one.price}
            for one in (content.pricing_examples if content else ())
        ],
        "documentation": f"https://runware.ai/docs/models/{entry.slug}" if entry else None,
        "parameters": None if parameters is None else [_plain(one, creator) for one in parameters],
        "example": _example(air, task_type),
    }


def _example(air: str, task_type: str | None) -> str | None:
    from runware_flow.catalog import limits, load_registry, model_schema
    from runware_flow.catalog.example import example_program
    from runware_flow.catalog.search import list_models

    schema = model_schema(air)
    if schema is None or task_type is None:
        return None
    cards = list_models(load_registry(), {air: schema})
    makes_video = any(one.modality == "video" for one in cards if one.air == air)
    return example_program(air, task_type, schema, limits().get(task_type, {}), makes_video=makes_video)


def _parameters(air: str, task_type: str | None) -> list[Parameter] | None:
    """What a model takes; None for one that the catalog does not know."""
    from runware_flow.catalog import limits, model_schema
    from runware_flow.catalog.surface import narrow_surface

    schema = model_schema(air)
    if schema is None or task_type is None:
        return None
    taken = narrow_surface([schema], [], limits().get(task_type, {}))
    for parameter in taken:
        parameter.is_required = parameter.name in schema["required"]
    return sorted(taken, key=lambda one: not one.is_required)


def _plain(parameter: Parameter, creator: str) -> dict[str, Any]:
    from runware_flow.catalog.description import MEANINGS, describe_range
    from runware_flow.catalog.surface import members_of

    facts = parameter.facts
    return {
        "name": parameter.name,
        "type": " or ".join(sorted(parameter.types)),
        "required": parameter.is_required,
        "min": facts.get("min"),
        "max": facts.get("max"),
        "multipleOf": facts.get("multipleOf"),
        "default": facts.get("default"),
        "values": parameter.values,
        "range": describe_range(parameter),
        "note": facts.get("note"),
        "meaning": MEANINGS.get(parameter.name),
        "members": [_plain(one, creator) for one in members_of(parameter, creator)],
    }


# Output


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_model(found: dict[str, Any]) -> None:
    echo("  ".join(filter(None, (found["name"], found["air"], found["slug"]))))
    if found["headline"]:
        echo(found["headline"])
    examples = [f"{one['price']} for {one['configuration']}" for one in found["pricingExamples"]]
    facts = {
        "task type": found["taskType"],
        "architecture": found["architecture"],
        "status": found["status"],
        "price": "; ".join(filter(None, (found["pricing"], *examples))) or None,
        "documentation": found["documentation"],
    }
    echo()
    _print_table([[name, str(value)] for name, value in facts.items() if value])
    echo()
    if found["parameters"] is None:
        echo("Its parameters are not in the catalog of this package.")
    else:
        shown = [one for one in found["parameters"] if one["name"] != "model"]
        rows = [row for one in shown for row in (one, *one["members"])]
        _print_table([["", "parameter", "type", "range"], *map(_parameter_row, rows)])
        echo()
        echo(
            "* required. Ranges, and what is inside `inputs` and `settings`, are those of all models of this task type;"
        )
        echo("a model may allow less, and the service has the last word.")
    if found["example"]:
        echo()
        echo(found["example"].rstrip(), is_laid_out=True)


def _parameter_row(parameter: dict[str, Any]) -> list[str]:
    values = [str(value) for value in parameter["values"]]
    more = f", and {len(values) - _LONGEST_LIST} more" if len(values) > _LONGEST_LIST else ""
    listed = "one of " + ", ".join(values[:_LONGEST_LIST]) + more if values else ""
    described = "; ".join(
        filter(None, (listed, parameter["range"], parameter["note"] if "." in parameter["name"] else None))
    )
    return ["*" if parameter["required"] else "", parameter["name"], parameter["type"], described]


def _print_changes(changes: RegistryChanges) -> None:
    echo(f"The catalog of this package is version {changes.version_before}, the service's {changes.version_now}.")
    if changes.is_empty:
        echo("They name the same models.")
    _print_group("new", ([one.air, one.slug_now or "", one.task_type_now or ""] for one in changes.added))
    _print_group("gone", ([one.air, one.slug_before or "", one.task_type_before or ""] for one in changes.removed))
    _print_group("changed", map(_changed_row, changes.changed))


def _changed_row(one: ModelChange) -> list[str]:
    slugs = [one.slug_before or "", one.slug_now or ""]
    types = [one.task_type_before or "", one.task_type_now or ""]
    return [one.air, " -> ".join(dict.fromkeys(slugs)), " -> ".join(dict.fromkeys(types))]


def _print_group(title: str, rows: Iterable[list[str]]) -> None:
    listed = list(rows)
    if listed:
        echo()
        echo(f"{len(listed)} {title}:")
        _print_table(listed)
