"""What a client is configured with, and what it says of a configuration that cannot work."""

from __future__ import annotations

import pickle
import re

import httpx
import pytest

from runware_flow import Client
from runware_flow.client.options import ClientOptions, Settings, read_settings
from runware_flow.emulator import Emulator
from runware_flow.errors import RunwareError
from runware_flow.secret import Secret
from runware_flow.transport.websocket import open_websocket

KEY = "rw-0123456789abcdef"


def test_settings_come_from_keywords_then_environment_then_defaults():
    environment = {
        "RUNWARE_API_KEY": KEY,
        "RUNWARE_HTTP_BASE_URL": "http://127.0.0.1:1/v1",
        "RUNWARE_WS_BASE_URL": "ws://127.0.0.1:1/v1",
    }
    settings = read_settings({"ws_base_url": "ws://127.0.0.1:2/v1", "timeout": None}, environment)
    assert settings.api_key.reveal() == KEY
    assert settings.http_base_url == "http://127.0.0.1:1/v1"
    assert settings.ws_base_url == "ws://127.0.0.1:2/v1"
    assert settings.timeout == 1200.0
    assert settings.content_base_url == "https://content.runware.ai"


def test_settings_and_client_options_name_the_same_keywords():
    assert set(Settings.__struct_fields__) == ClientOptions.__optional_keys__


@pytest.mark.parametrize("key", [None, "", "  "])
def test_settings_without_key_say_where_to_put_it(key):
    with pytest.raises(RunwareError, match="RUNWARE_API_KEY") as caught:
        read_settings({"api_key": key}, {})
    assert caught.value.code == "auth"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": "60"}, "takes a number"),
        ({"max_retries": -1}, "0 or more"),
        ({"transport": "smoke-signals"}, "choose one of 'websocket', 'rest'"),
        ({"http_base_url": "api.runware.ai"}, "must start with http:// or https://"),
        ({"ws_base_url": "https://x"}, "must start with ws:// or wss://"),
        ({"colour": "red"}, "takes no option 'colour'"),
        ({"http_base_url": "http://127.0.0.1:99999/"}, "http_base_url.*port"),
        ({"ws_base_url": "ws:///v1"}, "ws_base_url"),
        ({"serverless_environment": "Ümwelt"}, "serverless_environment.*small letters"),
    ],
)
def test_settings_that_cannot_work_are_named(options, sentence):
    with pytest.raises(RunwareError, match=sentence) as caught:
        read_settings({"api_key": KEY, **options}, {})
    assert caught.value.code == "validation"


def test_key_is_never_shown():
    settings = read_settings({"api_key": KEY}, {})
    assert KEY not in repr(settings)
    assert KEY not in f"{settings.api_key}{settings.api_key!r}"
    assert KEY not in settings.api_key.redact(f"unknown key {KEY}")
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(settings.api_key)


def test_key_with_inner_space_is_a_copying_mistake_and_not_repeated():
    with pytest.raises(RunwareError, match="copying mistake") as caught:
        read_settings({"api_key": "rw-12 34"}, {})
    assert "12 34" not in str(caught.value)


def test_secret_equality_is_by_value():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert hash(Secret("a")) == hash(Secret("a"))


def test_user_agent_begins_with_its_prefix_everywhere(run):
    told = []

    def connector(url, *, headers, **options):
        told.append(headers["User-Agent"])
        return open_websocket(url, headers=headers, **options)

    async def hook(request):
        told.append(request.headers["User-Agent"])

    async def main():
        async with Emulator(latency=0.0) as emulator, httpx.AsyncClient(event_hooks={"request": [hook]}) as http:
            options = {"connector": connector, "http_client": http, "user_agent_prefix": "my-app/2.0"}
            async with Client(**emulator.client_options, **options) as client:
                await client.connect()
                await client.get_response("9b0e0f60-8c46-4c42-9ef4-1c3f6c1a8a11")
                await client.content.list_creators()

    run(main)
    assert len(told) == 3
    assert all(re.match(r"my-app/2\.0 runware-flow/[\d.]+ \(python/", one) for one in told)
