"""The types of the content service: models, examples, prices, guides, collections, creators (section 10)."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from runware_flow.wire.entries import Entry

__all__ = (
    "Capability",
    "Collection",
    "ContentModel",
    "Creator",
    "Guide",
    "ModelExample",
    "ModelPricing",
    "Page",
    "PricingExample",
)

E = TypeVar("E", bound=Entry)


class PricingExample(Entry, frozen=True, kw_only=True, rename="camel"):
    """What one configuration of a model costs."""

    configuration: str | None = None
    price: float | str | None = None
    """As the service words it: `$0.0013`, or a number of USD."""
    competitor_price: float | str | None = None


class ContentModel(Entry, frozen=True, kw_only=True, rename="camel"):
    """A curated model. `creator`, `capabilities` and `architecture` are ids."""

    nested: ClassVar[dict[str, type[Entry]]] = {"pricingExamples": PricingExample}

    model: str | None = None
    """The slug."""
    air: str | None = None
    name: str | None = None
    creator: str | None = None
    category: str | list[str] | None = None
    capabilities: list[str] | None = None
    """Ids that begin with `io:`, `op:` or `form:`; see `list_capabilities`."""
    architecture: str | None = None
    hosted: bool | None = None
    status: str | None = None
    """`live`, `deprecated`, `coming-soon`, `draft`, `unlisted`, `compatible-only` or `openai-compatible`."""
    released_at: str | None = None
    weight: float | None = None
    headline: str | None = None
    description: str | None = None
    cover_image: str | None = None
    og_image: str | None = None
    pricing_overview: str | None = None
    pricing_examples: list[PricingExample] = msgspec.field(default_factory=list[PricingExample])


class ModelExample(Entry, frozen=True, kw_only=True, rename="camel"):
    """One input of a model, and what it made of it."""

    id: str | None = None
    title: str | None = None
    model: str | None = None
    capability: str | None = None
    asset: Any = None
    request: dict[str, Any] | list[Any] | None = None
    response: dict[str, Any] | list[Any] | None = None


class ModelPricing(Entry, frozen=True, kw_only=True, rename="camel"):
    """What a model costs."""

    nested: ClassVar[dict[str, type[Entry]]] = {"pricingExamples": PricingExample}

    model: str | None = None
    air: str | None = None
    name: str | None = None
    category: str | list[str] | None = None
    status: str | None = None
    """As of a `ContentModel`."""
    cover_image: str | None = None
    released_at: str | None = None
    pricing_overview: str | None = None
    pricing_examples: list[PricingExample] = msgspec.field(default_factory=list[PricingExample])


class Guide(Entry, frozen=True, kw_only=True, rename="camel"):
    """A page about using a model."""

    slug: str | None = None
    title: str | None = None
    description: str | None = None
    date: str | None = None
    url: str | None = None


class Capability(Entry, frozen=True, kw_only=True, rename="camel"):
    """One thing that models can do."""

    id: str | None = None
    label: str | None = None


class Collection(Entry, frozen=True, kw_only=True, rename="camel"):
    """A group of models that the service has put together, with the models themselves."""

    nested: ClassVar[dict[str, type[Entry]]] = {"models": ContentModel}

    id: str | None = None
    name: str | None = None
    headline: str | None = None
    description: str | None = None
    icon: str | None = None
    cover_image: str | None = None
    category: str | list[str] | None = None
    order: float | None = None
    models: list[ContentModel] = msgspec.field(default_factory=list[ContentModel])


class Creator(Entry, frozen=True, kw_only=True, rename="camel"):
    """Who makes models, with the curated ones."""

    nested: ClassVar[dict[str, type[Entry]]] = {"models": ContentModel}

    id: str | None = None
    name: str | None = None
    headline: str | None = None
    description: str | None = None
    logo: str | None = None
    """The address of a picture."""
    models: list[ContentModel] = msgspec.field(default_factory=list[ContentModel])


class Page(msgspec.Struct, Generic[E], frozen=True, kw_only=True):
    """One page of a longer list."""

    total: int
    """Entries in the whole list."""
    limit: int
    offset: int
    items: list[E]
