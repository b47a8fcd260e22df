"""The content service: descriptions, abilities and prices of the curated models (protocol facts, section 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, overload
from urllib.parse import quote, urlencode

import msgspec

from runware_flow.catalog.documentation import add_documentation, documentation_of
from runware_flow.errors import RunwareError
from runware_flow.tracebacks import bordered
from runware_flow.wire import salvage
from runware_flow.wire.content import (
    Capability,
    Collection,
    ContentModel,
    Creator,
    Guide,
    ModelExample,
    ModelPricing,
    Page,
)
from runware_flow.wire.entries import Entry, read_entry, read_list
from runware_flow.wire.frames import decode_reply
from runware_flow.wire.problems import to_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from runware_flow.client.http.web import Web

__all__ = ("Content",)

_NOT_FOR_RUN = frozenset({"compatible-only", "openai-compatible"})
"""Statuses of models that only the compatible APIs serve; the two official clients differ in the name."""

E = TypeVar("E", bound=Entry)

_TIMEOUT = 60.0


class ModelFilters(TypedDict, total=False):
    """What `list_models` takes, but for `paginate`; see there."""

    search: str | None
    capability: str | None
    category: str | None
    creator: str | None
    status: str | None
    sort: str | None
    order: Literal["asc", "desc"] | None
    limit: int | None
    offset: int | None


@bordered
class Content:
    """`client.content`: read-only metadata of the curated models. Nothing here is billed, and no key is sent [sdk].

    A model is named by its slug or AIR, a collection or creator by its id. For one that does not exist the methods
    return `None`, or an empty list of examples or guides. Every entry has `.raw` with all that came. A cancel leaves
    nothing behind.

    Raises:
        RunwareError: from every method: the service could not be reached (`connection`, `timeout`), or answered with
            an error or with something that cannot be read (`serverError`, `validation`, ...), or it has no such list
            (`notFound`: then `content_base_url` names something else). Requests are repeated up to `max_retries` times
            before that, within 60 s in all.
    """

    def __init__(
        self,
        base_url: str,
        web: Web,
        check_open: Callable[[], object],
        documenting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._documenting = documenting
        self._base_url = base_url.rstrip("/")
        self._web = web
        self._check_open = check_open

    @overload
    async def list_models(
        self, *, paginate: Literal[False] = False, **filters: Unpack[ModelFilters]
    ) -> list[ContentModel]: ...
    @overload
    async def list_models(self, *, paginate: Literal[True], **filters: Unpack[ModelFilters]) -> Page[ContentModel]: ...
    async def list_models(self, *, search: str | None = None, paginate: bool = False, **filters: Any) -> Any:
        """List curated models.

        Args:
            search: words in the name.
            capability: an id of `list_capabilities`, such as `io:text-to-image`.
            category: `image`, `video`, `audio`, `text` or `3d`.
            creator: an id of `list_creators`.
            status: `live`, `deprecated`, `coming-soon`, ... Without it, models that `run` cannot use (of status
                `compatible-only` or `openai-compatible`) are left out, as in the official clients; a page's `total`
                counts them all the same.
            sort: `weight`, `releasedAt`, `name`, `creator`, `popularity`, `newest` or `alpha`.
            order: `asc` or `desc`.
            limit, offset: a part of the list.
            paginate: return a `Page` with `total`, `limit`, `offset` and `items` instead of a list.
        """
        for name in filters:
            if name not in ModelFilters.__annotations__:
                known = ", ".join([*ModelFilters.__annotations__, "paginate"])
                raise _wrong(name, f"list_models() takes no {name!r}, but {known}")
        found = await self._list("models", q=search, paginate="true" if paginate else None, **filters)
        listed = found["items"] if _is_page(found) else found
        items = read_list(ContentModel, listed)
        count = len(items)
        if filters.get("status") is None:
            items = [model for model in items if model.status not in _NOT_FOR_RUN]
        if not paginate:
            return items
        if not _is_page(found):
            raise _unreadable("a page of models")
        numbers = {name: _whole(found.get(name), count) for name in ("total", "limit")}
        return Page(items=items, offset=_whole(found.get("offset"), 0), **numbers)

    async def get_model(self, model: str) -> ContentModel | None:
        """Return one curated model, by slug or AIR, or `None`."""
        return await self._one(ContentModel, "models", model)

    async def get_model_examples(self, model: str, *, capability: str | None = None) -> list[ModelExample]:
        """Return example requests to a model with the replies, for one capability or for all."""
        return await self._several(ModelExample, "models", model, "examples", capability=capability)

    async def get_model_pricing(self, model: str) -> ModelPricing | None:
        """Return what a model costs, in words and for example configurations, or `None`."""
        return await self._one(ModelPricing, "models", model, "pricing")

    async def get_model_guides(self, model: str) -> list[Guide]:
        """Return the guides to a model: title, date and address of each page."""
        return await self._several(Guide, "models", model, "guides")

    async def list_capabilities(self) -> list[Capability]:
        """Return everything that models can do, by id (`io:...`, `op:...`, `form:...`) and label."""
        return _entries(Capability, await self._list("capabilities"))

    async def list_collections(self, *, category: str | None = None) -> list[Collection]:
        """Return the groups of models that the service has put together, of one category or of all."""
        return _entries(Collection, await self._list("collections", category=category))

    async def get_collection(self, collection: str) -> Collection | None:
        """Return one of those groups, with its models, or `None`."""
        return await self._one(Collection, "collections", collection)

    async def list_creators(self) -> list[Creator]:
        """Return the makers of models, each with its curated models."""
        return _entries(Creator, await self._list("creators"))

    async def get_creator(self, creator: str) -> Creator | None:
        """Return one of them, or `None`."""
        return await self._one(Creator, "creators", creator)

    async def _one(self, kind: type[E], *path: str) -> E | None:
        found = await self._get(*path)
        if found is None:
            return None
        if not salvage.is_object(found):
            raise _unreadable(f"a {kind.__name__}")
        return read_entry(kind, found)

    async def _several(self, kind: type[E], *path: str, **query: str | None) -> list[E]:
        return _entries(kind, await self._get(*path, **query))

    async def _list(self, name: str, **query: Any) -> Any:
        """A list that the service has always; where it has none, something else answers there."""
        found = await self._get(name, **query)
        if found is not None:
            return found
        raise RunwareError(
            f"there is no list of {name} at {self._base_url}: content_base_url names something else",
            code="notFound",
            raw_code="httpError",
            status_code=404,
            documentation=documentation_of("notFound"),
        )

    async def _get(self, *path: str, **query: Any) -> Any:
        """What the service answered, decoded; None for 404."""
        self._check_open()
        with self._documenting():
            return await self._request(path, query)

    async def _request(self, path: tuple[str, ...], query: dict[str, Any]) -> Any:
        if not all(map(_can_be_sent, path)):
            raise _wrong("id", f"{path[0]} are named by an id, a slug or an AIR, not by {path[1]!r:.80}")
        given = {name: value for name, value in query.items() if value is not None}
        for name, value in given.items():
            _check_filter(name, value)
        asked = urlencode(given)
        place = "/".join(quote(step, safe=":@") for step in path)
        reply = await self._web.request_with_retries(
            f"{self._base_url}/{place}{'?' if asked else ''}{asked}", timeout=_TIMEOUT
        )
        if reply.status == 404:
            return None
        if reply.status >= 400:
            raise to_error(decode_reply(reply.status, reply.body).errors[0], retry_after=reply.retry_after)
        try:
            return msgspec.json.decode(reply.body)
        except salvage.UNREADABLE as error:
            raise _unreadable("JSON") from error


_LONGEST_ID = 1000
"""No id is nearly as long; an address of more than some thousand bytes is refused by servers in many ways."""


def _can_be_sent(step: object) -> bool:
    """Whether this can be one step of a path: `.` and `..` would name another place."""
    return isinstance(step, str) and len(step) <= _LONGEST_ID and step.strip(".") != "" and not _has_surrogates(step)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _check_filter(name: str, value: object) -> None:
    shown = "search" if name == "q" else name
    if name in ("limit", "offset"):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _wrong(shown, f"{shown}= takes a whole number, 0 or more, not {value!r:.80}")
    elif not isinstance(value, str):
        raise _wrong(shown, f"{shown}= takes a text, not {value!r:.80}")
    elif len(value) > _LONGEST_ID or _has_surrogates(value):
        raise _wrong(shown, f"{shown}= is too long, or holds characters that UTF-8 cannot carry: {value!r:.80}")


def _wrong(parameter: str, message: str) -> RunwareError:
    error = RunwareError(message, code="validation", raw_code="invalidParameter", parameter=parameter)
    return add_documentation(error)


def _entries(kind: type[E], found: object) -> list[E]:
    if found is not None and not salvage.is_array(found):
        raise _unreadable(f"a list of {kind.__name__}")
    return read_list(kind, found)


def _is_page(found: object) -> bool:
    return salvage.is_object(found) and salvage.is_array(found.get("items"))


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _unreadable(expected: str) -> RunwareError:
    return RunwareError(
        f"the content service answered with something that is not {expected}",
        code="serverError",
        raw_code="unrecognizedResponse",
        documentation=documentation_of("serverError"),
    )
