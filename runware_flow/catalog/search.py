"""Finds models by what they do, who makes them and what they take: filters and a ranking over plain data.

The catalog says of a model its task type and the parameters that it takes; from these follows what it does. What the
content service says besides (name, headline, capabilities, price) is added where it answered.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runware_flow.errors import RunwareError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runware_flow.catalog.registry import ModelEntry, Registry
    from runware_flow.wire.content import ContentModel

__all__ = ("MODALITIES", "ModelCard", "list_models", "search_models")

MODALITIES = ("image", "video", "audio", "text", "3d")

_MODALITY = {
    "audioInference": "audio",
    "textInference": "text",
    "caption": "text",
    "promptEnhance": "text",
    "videoInference": "video",
    "3dInference": "3d",
}
"""What models of a task type put out; those that are not listed work on images, or on videos."""

_OPERATIONS = {
    "caption": "caption",
    "controlNetPreprocess": "controlnet-preprocess",
    "imageMasking": "masking",
    "promptEnhance": "prompt-enhance",
    "removeBackground": "remove-background",
    "tools": "tools",
    "training": "training",
    "upscale": "upscale",
    "vectorize": "vectorize",
}

_DOES = {
    "imageInference": "generate image picture",
    "videoInference": "generate video film movie clip",
    "audioInference": "generate audio sound",
    "textInference": "language model llm chat text write answer",
    "3dInference": "generate 3d mesh model",
    "caption": "caption describe image vision",
    "upscale": "upscale enlarge super resolution increase quality",
    "removeBackground": "remove background cut out cutout matting transparent",
    "imageMasking": "mask detect segment",
    "controlNetPreprocess": "controlnet guide preprocess",
    "promptEnhance": "enhance improve prompt",
    "vectorize": "vectorize vector svg",
    "training": "train fine tune finetune lora style",
    "tools": "edit convert cut join media",
}
"""The words that people have for what a task type does."""

_SLUG_WORDS = {
    "tts": "text to speech voice",
    "speech": "voice",
    "music": "song",
    "ace": "music song",
    "sfx": "sound effects",
    "vto": "virtual try on",
    "lipsync": "lip sync",
    "avatar": "talking head",
    "fill": "inpaint",
    "eraser": "remove object inpaint",
    "erase": "remove object",
    "remover": "erase",
    "edit": "change",
    "canny": "edges",
    "softedge": "edges",
    "openpose": "pose",
    "rembg": "remove background",
    "rmbg": "remove background",
    "claude": "anthropic",
    "veo": "google",
    "llava": "vision",
}
"""What parts of names stand for."""

_CREATORS = {"bfl": "black forest labs", "klingai": "kling kuaishou", "zai": "zhipu", "xai": "grok"}
"""Further names of creators, by the source in their AIRs."""

_CARRIERS = frozenset({"runware", "civitai"})
"""Sources of AIRs that carry models of others; there the slug begins with the creator."""

_STOP_WORDS = frozenset(
    {"a", "an", "and", "by", "for", "from", "in", "into", "model", "models", "my", "of", "the", "with"}
)
_ENDINGS = (
    *("ization", "ation", "ings", "ing", "ers", "er", "ors", "or"),
    *("ions", "ion", "als", "al", "es", "ed", "e", "s"),
)
_MEDIA = "text|images?|pictures?|videos?|audio|speech|3d|svg|vectors?|music"
_CONVERSION = re.compile(rf"\b({_MEDIA})[ -](?:to|2)[ -]({_MEDIA})\b")
_SAME = {
    "images": "image",
    "picture": "image",
    "pictures": "image",
    "videos": "video",
    "vectors": "svg",
    "vector": "svg",
}


class ModelCard(Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of one model, for a list of models."""

    air: str
    slug: str | None = None
    name: str | None = None
    task_type: str | None = None
    modality: str | None = None
    """What it puts out: one of `MODALITIES`."""
    creator: str | None = None
    architecture: str | None = None
    capabilities: tuple[str, ...] = ()
    """Ids such as `io:text-to-image` and `op:upscale`: the content service's, and those that the catalog shows."""
    price: str | None = None
    """As the content service words it; `None` if it did not answer, or does not say."""
    headline: str | None = None
    weight: float = 0.0
    """How prominent the content service thinks it."""


def list_models(
    registry: Registry, schemas: Mapping[str, Any], described: Iterable[ContentModel] = ()
) -> list[ModelCard]:
    """One card for each model of the registry, and for each of `described` that the registry lacks.

    Args:
        registry: which models exist.
        schemas: their parameter schemas, by AIR.
        described: what the content service says of models.
    """
    known = {one.air: one for one in described if one.air}
    cards = [_card(air, entry, schemas.get(air), known.get(air)) for air, entry in registry.models.items()]
    return cards + [_card(air, None, None, one) for air, one in known.items() if air not in registry.models]


def search_models(
    cards: Sequence[ModelCard],
    text: str = "",
    *,
    task: str | None = None,
    modality: str | None = None,
    creator: str | None = None,
    capability: str | None = None,
    takes: Sequence[str] = (),
    schemas: Mapping[str, Any],
) -> list[ModelCard]:
    """The cards that fit every word of `text` and every filter, best first.

    A model fits a word by its name, slug, AIR or creator, by what it does ("remove background", "text to speech"), or
    by its headline; in this order they rank. Without words the order is that of the content service's weights.

    Args:
        cards: all models, as `list_models` gives them.
        text: words, in any order and form ("removing backgrounds").
        task: a task type (`caption`, `ImageInference`) or an operation (`remove-background`).
        modality: what comes out: one of `MODALITIES`.
        creator: its id or its name, or a part of it.
        capability: an id, with or without what is before its colon.
        takes: parameters that a model must take: `NAME`, or `NAME=VALUE` for one that must take this value.
        schemas: the parameter schemas of models, by AIR.

    Raises:
        RunwareError: code `validation`: no model has such a task type, modality, creator, capability or parameter.
    """
    found = list(cards)
    if task is not None:
        found = _of_task(found, task)
    if modality is not None:
        found = [one for one in found if one.modality == _known(modality, MODALITIES, "modality")]
    if creator is not None:
        found = _of_creator(found, cards, creator)
    if capability is not None:
        found = _of_capability(found, cards, capability)
    for asked in takes:
        found = _taking(found, asked, schemas)
    conversions, words = _read_query(text)
    scored = [(_score(one, text.lower().strip(), conversions, words), one) for one in found]
    ranked = sorted(scored, key=lambda pair: (-pair[0], -pair[1].weight))
    return [one for score, one in ranked if score > 0 or not text.strip()]


# Cards


def _card(
    air: str, entry: ModelEntry | None, schema: Mapping[str, Any] | None, known: ContentModel | None
) -> ModelCard:
    task_type = entry.task_type if entry else None
    slug = entry.slug if entry else known.model if known else None
    modality = _modality(task_type, schema)
    capabilities = _capabilities(task_type, modality, schema) if task_type else ()
    if known is None:
        return ModelCard(
            air=air,
            slug=slug,
            task_type=task_type,
            modality=modality,
            creator=_creator(air, slug),
            capabilities=capabilities,
        )
    category = known.category if isinstance(known.category, str) else next(iter(known.category or ()), None)
    return ModelCard(
        air=air,
        slug=slug,
        name=known.name,
        task_type=task_type,
        modality=modality or category,
        creator=known.creator or _creator(air, slug),
        architecture=known.architecture,
        capabilities=tuple(dict.fromkeys((*(known.capabilities or ()), *capabilities))),
        price=known.pricing_overview,
        headline=known.headline,
        weight=known.weight or 0.0,
    )


def _creator(air: str, slug: str | None) -> str:
    source = air.partition(":")[0]
    return (slug or source).partition("-")[0] if source in _CARRIERS else source


def _modality(task_type: str | None, schema: Mapping[str, Any] | None) -> str | None:
    if task_type is None:
        return None
    formats = _values(schema, "outputFormat") or ()
    if task_type not in _MODALITY and {"MP4", "WEBM", "MOV"} & set(formats):
        return "video"
    return _MODALITY.get(task_type, "image")


def _capabilities(task_type: str, modality: str | None, schema: Mapping[str, Any] | None) -> tuple[str, ...]:
    found = [f"op:{_OPERATIONS[task_type]}"] if task_type in _OPERATIONS else []
    taken: Mapping[str, Any] = schema["properties"] if schema else {}
    needs: Sequence[str] = schema["required"] if schema else ()
    out = "svg" if task_type == "vectorize" else modality
    if task_type == "audioInference" and "speech" in taken:
        found.append("io:text-to-speech")
    takes_prompt = "positivePrompt" in taken or "messages" in taken
    if task_type not in ("upscale", "removeBackground", "training") and takes_prompt and "inputs" not in needs:
        found.append(f"io:text-to-{out}")
    if "inputs" in taken and task_type not in ("audioInference", "textInference", "training", "tools"):
        source = "video" if task_type not in ("videoInference", "caption") and modality == "video" else "image"
        found.append(f"io:{source}-to-{out}")
    return tuple(found)


# Filters


def _of_task(cards: Sequence[ModelCard], task: str) -> list[ModelCard]:
    from runware_flow.tasks import TASK_TYPES

    names = {one.task_type for one in cards if one.task_type}
    spelled = {_plain(name): name for name in names}
    spelled |= {_plain(_OPERATIONS[name]): name for name in names if name in _OPERATIONS}
    spelled |= {_plain(kind.__name__): name for name, kind in TASK_TYPES.items() if name in names}
    medium = re.search("(image|video)$", _plain(task))
    meant = spelled.get(_plain(task))
    if meant is not None:
        return [one for one in cards if one.task_type == meant]
    meant = spelled.get(_plain(task)[: medium.start()]) if medium else None
    if meant is None or medium is None:
        raise _refuse(f"there is no task type {task!r}", task, sorted(names))
    # The catalog does not say whether a model describes images or videos; of the others it knows what they put out.
    fitting = (medium[0], "text")
    return [one for one in cards if one.task_type == meant and one.modality in fitting]


def _of_creator(found: Sequence[ModelCard], cards: Sequence[ModelCard], creator: str) -> list[ModelCard]:
    def fits(one: ModelCard) -> bool:
        names = (one.creator or "", _creator(one.air, one.slug), _CREATORS.get(_creator(one.air, one.slug), ""))
        return any(_plain(creator) in _plain(name) for name in names)

    if not any(map(fits, cards)):
        raise _refuse(f"no model is by {creator!r}", creator, sorted({one.creator for one in cards if one.creator}))
    return [one for one in found if fits(one)]


def _of_capability(found: Sequence[ModelCard], cards: Sequence[ModelCard], capability: str) -> list[ModelCard]:
    wanted = capability.lower().replace(" ", "-")

    def fits(one: ModelCard) -> bool:
        return any(wanted in (name, name.partition(":")[2]) for name in one.capabilities)

    if not any(map(fits, cards)):
        known = sorted({name for one in cards for name in one.capabilities})
        raise _refuse(f"no model has the capability {capability!r}", capability, known)
    return [one for one in found if fits(one)]


def _taking(found: Sequence[ModelCard], parameter: str, schemas: Mapping[str, Any]) -> list[ModelCard]:
    name, is_valued, value = parameter.partition("=")
    known = {one for schema in schemas.values() for one in schema["properties"]}
    meant = next((one for one in sorted(known) if _plain(one) == _plain(name)), None)
    if meant is None:
        raise _refuse(f"no model takes a parameter {name!r}", name, sorted(known))
    taking = [one for one in found if meant in schemas.get(one.air, _NOTHING)["properties"]]
    if not is_valued:
        return taking
    return [one for one in taking if _takes_value(schemas[one.air], meant, value)]


def _takes_value(schema: Mapping[str, Any], name: str, value: str) -> bool:
    """Whether a model takes this value; the catalog knows no bounds of single models, so one without a list may."""
    values = _values(schema, name)
    return values is None or value.lower() in {str(one).lower() for one in values}


def _values(schema: Mapping[str, Any] | None, name: str) -> list[Any] | None:
    """The values that a model's parameter takes; None if every one of its type is taken, or nothing is known."""
    member: dict[str, Any] = schema["properties"].get(name, {}) if schema else {}
    found: list[Any] = []
    for variant in member.get("anyOf", [member]):
        if "enum" not in variant and "const" not in variant:
            return None
        found += variant.get("enum", [variant.get("const")])
    return found


def _known(given: str, names: Sequence[str], what: str) -> str:
    if given.lower() not in names:
        raise _refuse(f"there is no {what} {given!r}", given, names)
    return given.lower()


def _refuse(problem: str, given: str, names: Sequence[str]) -> RunwareError:
    like = get_close_matches(given, names, 3, 0.6)
    hint = f"did you mean {' or '.join(like)}?" if like else f"known: {', '.join(names)}" if len(names) <= 20 else ""
    return RunwareError(f"{problem} ({hint})" if hint else problem, code="validation", raw_code="invalidParameter")


_NOTHING: dict[str, Any] = {"properties": {}, "required": ()}


# Words


def _read_query(text: str) -> tuple[list[str], list[str]]:
    """What is turned into what ("text to speech"), and the other words, by their stems."""
    lowered = text.lower()
    conversions = [f"io:{_SAME.get(a, a)}-to-{_SAME.get(b, b)}" for a, b in _CONVERSION.findall(lowered)]
    rest = _CONVERSION.sub(" ", lowered)
    words = [word for word in re.findall(r"[a-z0-9.]+", rest) if word not in _STOP_WORDS]
    return conversions, [_stem(word) for word in words if word != "to" or len(words) == 1]


def _score(card: ModelCard, query: str, conversions: Sequence[str], words: Sequence[str]) -> float:
    """How well a model fits; 0 if it lacks something that was requested."""
    if not words and not conversions:
        return 0.0
    names = f"{card.air} {card.slug or ''} {(card.name or '').lower()}"
    if query in names and ({"@", ":"} & set(query) or query in (card.air, card.slug)):
        return 100.0
    if {"@", ":"} & set(query) or any(one not in card.capabilities for one in conversions):
        return 0.0
    fields = _fields(card, names)
    worths = [_worth(word, fields) for word in words]
    if not all(worths):
        return 0.0
    # Most people who name no medium have images.
    is_other_medium = card.task_type in _OPERATIONS and card.modality == "video" and "video" not in query
    return (10.0 * len(conversions) + sum(worths)) * (0.3 if is_other_medium else 1.0)


def _fields(card: ModelCard, names: str) -> tuple[tuple[float, frozenset[str]], ...]:
    """The stems of a card's fields with what a match in each is worth, best first."""
    slug_words = re.findall(r"[a-z0-9.]+", names.lower())
    meanings = " ".join(_SLUG_WORDS.get(word, "") for word in slug_words)
    does = f"{meanings} {' '.join(card.capabilities)} {card.modality or ''}"
    creator = f"{card.creator or ''} {_CREATORS.get(_creator(card.air, card.slug), '')} {card.architecture or ''}"
    return (
        (6.0, _stems(names.lower())),
        (5.0, _stems(_DOES.get(card.task_type or "", ""))),
        (4.0, _stems(creator)),
        (3.0, _stems(does)),
        (1.0, _stems(card.headline or "")),
    )


def _worth(word: str, fields: Sequence[tuple[float, frozenset[str]]]) -> float:
    """What a word of the query is worth: a whole word in each field, else the beginning of one; 0 if it is nowhere."""
    whole = sum(worth for worth, stems in fields if word in stems)
    if whole or len(word) < 3:
        return whole
    return max((worth / 2 for worth, stems in fields if any(one.startswith(word) for one in stems)), default=0.0)


def _stems(text: str) -> frozenset[str]:
    return frozenset(map(_stem, re.findall(r"[a-z0-9.]+", text.lower())))


def _stem(word: str) -> str:
    """A word without its ending, so that `removing`, `remover` and `removal` are one."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
