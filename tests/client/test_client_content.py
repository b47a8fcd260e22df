"""The content service, against the emulator and against a server that answers with nonsense."""

from __future__ import annotations

import json
import pickle

import pytest

from runware_flow import Client, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.wire.content import Collection, ContentModel, PricingExample
from runware_flow.wire.entries import read_entry


@pytest.fixture
def open_content():
    """The content service needs no transport of the session: one is enough."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def opener(**options):
        async with Emulator() as emulator:
            async with Client(**{**emulator.client_options, "transport": "rest", **options}) as client:
                yield client.content

    return opener


def test_content_lists_filters_and_pages_models(run, open_content):
    async def main():
        async with open_content() as content:
            everything = await content.list_models()
            flux = await content.list_models(search="flux", category="image", capability="io:text-to-image")
            assert 0 < len(flux) < len(everything)
            assert all(isinstance(model, ContentModel) and model.category == "image" for model in flux)
            part = await content.list_models(sort="name", order="asc", limit=3, offset=2)
            assert len(part) == 3
            page = await content.list_models(paginate=True, limit=25, offset=0)
            assert (page.total, page.limit, page.offset, len(page.items)) == (len(everything), 25, 0, 25)

    run(main)


def test_content_model_by_slug_and_air_with_examples_pricing_guides(run, open_content):
    async def main():
        async with open_content() as content:
            model = await content.get_model("bfl-flux-1-dev")
            assert model == await content.get_model("runware:101@1")
            assert model.raw["coverImage"] == model.cover_image
            examples = await content.get_model_examples("runware:101@1", capability="io:text-to-image")
            assert examples[0].request["model"] == "runware:101@1"
            pricing = await content.get_model_pricing("runware:101@1")
            assert isinstance(pricing.pricing_examples[0], PricingExample)
            assert (await content.get_model_guides("runware:101@1"))[0].url.startswith("https://")

    run(main)


def test_content_lists_capabilities_collections_creators(run, open_content):
    async def main():
        async with open_content() as content:
            capabilities = await content.list_capabilities()
            assert "io:text-to-image" in {one.id for one in capabilities}
            collections = await content.list_collections(category="video")
            assert [one.id for one in collections] == ["best-video"]
            assert collections[0].models[0].raw["air"]
            assert (await content.get_collection("best-image")).name == "Best of image"
            creators = await content.list_creators()
            assert (await content.get_creator("google")) in creators

    run(main)


def test_content_that_does_not_exist_is_none_or_empty(run, open_content):
    async def main():
        async with open_content() as content:
            assert await content.get_model("nobody:1@1") is None
            assert await content.get_model_pricing("nobody") is None
            assert await content.get_collection("worst") is None
            assert await content.get_creator("no/body?") is None
            assert await content.get_model_examples("nobody") == []
            assert await content.get_model_guides("nobody") == []
            assert await content.list_models(search="no such model at all") == []

    run(main)


def test_content_lists_that_are_not_there_say_so(run):
    import httpx

    async def main():
        transport = httpx.MockTransport(lambda _: httpx.Response(404, json={"error": "not found"}))
        async with httpx.AsyncClient(transport=transport) as http_client:
            options = {"http_client": http_client, "content_base_url": "http://wrong.test/"}
            async with Client(api_key="rw-key", transport="rest", **options) as client:
                content = client.content
                lists = (
                    content.list_models,
                    content.list_capabilities,
                    content.list_collections,
                    content.list_creators,
                )
                for call in lists:
                    with pytest.raises(RunwareError, match="content_base_url") as caught:
                        await call()
                    assert (caught.value.code, caught.value.status_code) == ("notFound", 404)
                assert await content.get_model("nobody") is None
                assert await content.get_model_guides("nobody") == []

    run(main)


def test_content_fields_are_typed_that_were_in_raw_alone(run, open_content):
    async def main():
        async with open_content() as content:
            creator = await content.get_creator("google")
            assert creator.logo.startswith("http")
            assert creator.headline
            (collection,) = await content.list_collections(category="video")
            assert collection.icon
            assert collection.cover_image.startswith("http")
            pricing = await content.get_model_pricing("runware:101@1")
            assert pricing.status == "live"
            assert pricing.category == ["image"]
            assert pricing.cover_image.startswith("http")
            assert pricing.released_at
            for entry in (creator, collection, pricing):
                known = set(entry.__struct_encode_fields__)
                assert set(entry.raw) <= known, set(entry.raw) - known

    run(main)


def test_content_sends_no_key_and_encodes_what_is_asked(run):
    import httpx

    asked = []

    def answer(request):
        asked.append(request)
        return httpx.Response(200, json=[])

    async def main():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client:
            options = {"http_client": http_client, "content_base_url": "http://content.test/"}
            async with Client(api_key="rw-secret", transport="rest", **options) as client:
                await client.content.list_models(search="a&b", limit=0)

    run(main)
    assert str(asked[0].url) == "http://content.test/models?q=a%26b&limit=0"
    assert "authorization" not in asked[0].headers
    assert "rw-secret" not in str(asked[0].headers)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b'{"error":{"code":"invalidParameter","message":"bad sort"}}', "validation"),
        (500, b"", "serverError"),
        (200, b"<html>", "serverError"),
        (200, b'{"items":7}', "serverError"),
    ],
)
def test_content_errors_are_runware_errors(run, status, body, code):
    import httpx

    async def main():
        transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
        async with httpx.AsyncClient(transport=transport) as http_client:
            async with Client(api_key="rw-key", transport="rest", http_client=http_client, max_retries=0) as client:
                with pytest.raises(RunwareError) as caught:
                    await client.content.list_capabilities()
        assert caught.value.code == code
        assert caught.value.documentation.startswith("https://runware.ai/docs/")

    run(main)


def test_content_hides_models_that_run_cannot_use_unless_asked_for_a_status(run):
    import httpx

    hidden = ("compatible-only", "openai-compatible")
    models = [{"model": "a", "status": "live"}, *({"model": status, "status": status} for status in hidden)]

    def answer(request):
        page = {"total": 2, "limit": 25, "offset": 0, "items": models}
        return httpx.Response(200, json=page if "paginate" in request.url.params else models)

    async def main():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client:
            async with Client(api_key="rw-key", transport="rest", http_client=http_client) as client:
                listed = await client.content.list_models()
                page = await client.content.list_models(paginate=True)
                asked = await client.content.list_models(status="compatible-only")
        assert [model.model for model in listed] == [model.model for model in page.items] == ["a"]
        assert (page.total, len(asked)) == (2, 3)

    run(main)


def test_content_that_cannot_be_reached_is_a_connection_error(run):
    async def main():
        options = {"content_base_url": "http://127.0.0.1:9", "max_retries": 1, "retry_delay": 0.0}
        async with Client(api_key="rw-key", transport="rest", **options) as client:
            with pytest.raises(RunwareError) as caught:
                await client.content.get_model("x")
        assert caught.value.code == "connection"

    run(main)


def test_entry_of_unexpected_shape_keeps_everything():
    plain = {"id": 7, "name": "n", "models": [{"model": "m", "weight": "heavy", "new": 1}, 5], "more": {"a": [1]}}
    entry = read_entry(Collection, json.loads(json.dumps(plain)))
    assert (entry.id, entry.name) == (None, "n")
    assert [model.raw["new"] for model in entry.models] == [1]
    assert entry.raw == plain
    entry.raw["more"]["a"].append(2)
    assert entry.raw == plain
    again = pickle.loads(pickle.dumps(entry))
    assert again == entry
    assert again.raw == plain
