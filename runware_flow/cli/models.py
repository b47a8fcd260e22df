"""`runware-flow models`: which models there are, what one takes, and what is new since this package was made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runware_flow.cli.terminal import echo, echo_json, say
from runware_flow.interrupts import run_interruptible
from runware_flow.view.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from runware_flow.catalog import Registry
    from runware_flow.catalog.changes import ModelChange, RegistryChanges
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
    text: Annotated[str, typer.Argument(help="Words in the name, the slug or the AIR.", metavar="TEXT")],
    category: Annotated[
        str | None, typer.Option(help="image, video, audio, text or 3d; with --community the kind of model.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=100)] = 20,
    community: Annotated[bool, typer.Option("--community", help="Search all models that the account can use.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find curated models by name; needs no key.

    With --community all others too, which needs RUNWARE_API_KEY.

    \b
    Example:
      runware-flow models search flux --category image
    """
    if community:
        found = _run(lambda client: _search_all(client, text, category, limit), needs_key=True)
    else:
        found = _run(lambda client: _search_curated(client, text, category, limit))
    if as_json:
        echo_json(found, indent=2)
    elif found:
        _print_table(
            [[one[name] or "" for name in ("air", "slug", "taskType", "architecture", "name")] for one in found]
        )
    else:
        echo(f"no model is called {text!r}")
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
        say(f"nothing is known of {model}{_meant(model)}; a community model goes by its AIR and a taskType")
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


# What is asked


def _run(ask: Callable[[Client], Awaitable[Any]], *, needs_key: bool = False) -> Any:
    """Ask a client that lives as long as the question; what is public needs no key, so any will do for it."""
    from runware_flow.client.client import Client

    async def main() -> Any:
        key = None if needs_key or os.environ.get("RUNWARE_API_KEY") else "none"
        async with Client(key, transport="rest", max_retries=1) as client:
            return await ask(client)

    return run_interruptible(main)


async def _search_all(client: Client, text: str, category: str | None, limit: int) -> list[dict[str, Any]]:
    from msgspec import UNSET

    found = await client.model_search(text, category=category or UNSET, limit=limit)
    registry = client.registry
    return [_found(registry, one.get("air"), one.get("name"), one.get("architecture")) for one in found.results or ()]


async def _search_curated(client: Client, text: str, category: str | None, limit: int) -> list[dict[str, Any]]:
    from runware_flow.errors import RunwareError

    registry = client.registry
    try:
        listed = await client.content.list_models(search=text, category=category, limit=limit)
    except RunwareError as error:
        say(f"only the catalog of this package is searched: {error}")
        listed = []
    found = [_found(registry, one.air, one.name, one.architecture) for one in listed]
    known = {one["air"] for one in found}
    lowered = text.lower()
    by_id = [air for air, entry in registry.models.items() if lowered in air.lower() or lowered in entry.slug]
    if category is None:
        found += [_found(registry, air, None, None) for air in by_id if air not in known]
    return found[:limit]


def _found(registry: Registry, air: str | None, name: str | None, architecture: str | None) -> dict[str, Any]:
    entry = registry.models.get(air or "")
    return {
        "air": air,
        "slug": entry and entry.slug,
        "taskType": entry and entry.task_type,
        "architecture": architecture,
        "name": name,
    }


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
        "parameters": None if parameters is None else [_plain(one) for one in parameters],
    }


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


def _plain(parameter: Parameter) -> dict[str, Any]:
    from runware_flow.catalog.description import MEANINGS, describe_range

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
    }


# What is shown


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
        _print_table([["", "parameter", "type", "range"], *map(_parameter_row, shown)])
        echo()
        echo("* required. Ranges are those of the catalog; a model may allow less, and the service has the last word.")


def _parameter_row(parameter: dict[str, Any]) -> list[str]:
    values = [str(value) for value in parameter["values"]]
    more = f", and {len(values) - _LONGEST_LIST} more" if len(values) > _LONGEST_LIST else ""
    listed = "one of " + ", ".join(values[:_LONGEST_LIST]) + more if values else ""
    said = "; ".join(filter(None, (listed, parameter["range"])))
    return ["*" if parameter["required"] else "", parameter["name"], parameter["type"], said]


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
