"""No page of another origin, and no host name but its own: on every route, before anything else happens."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from emulator_clients import open_rest
from emulator_tasks import image
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from runware_flow.emulator import Emulator, run_in_thread
from runware_flow.emulator.http.origins import OriginPolicy, parse_origin

pytestmark = pytest.mark.usefixtures("watched")

ROUTES = [
    ("POST", "/v1"),
    ("OPTIONS", "/v1"),
    ("GET", "/__emulator__/log"),
    ("GET", "/schemas/registry.json"),
    ("GET", "/schemas/resolve/runware:101@1"),
    ("GET", "/content/models"),
    ("POST", "/serverless/v1/apps/some-app/invoke-sync"),
    ("GET", "/image/os/a00/ws/2/ii/none.jpg"),
    ("GET", "/nothing/here"),
]


def headers_of(**named: str) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in named.items()}


@pytest.mark.parametrize(
    "host", ["127.0.0.1:80", "localhost:9", "LOCALHOST", "a.localhost:1", "[::1]:8", "10.1.2.3:1", "box:1"]
)
def test_own_host_names_are_answered(host) -> None:
    assert OriginPolicy(["box"]).refusal(headers_of(host=host)) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "", "[", "a b", "2130706433.x"]
)
def test_other_host_names_are_refused(host) -> None:
    assert "--allow-host" in str(OriginPolicy(["127.0.0.1"]).refusal(headers_of(host=host)))


@given(st.text(max_size=40), st.sampled_from(["127.0.0.1:7", "localhost:7"]))
def test_no_origin_passes_but_its_own_and_those_allowed(origin, host) -> None:
    policy = OriginPolicy(["127.0.0.1"], ["https://studio.example"])
    given_origin = origin.encode("utf-8")
    headers = {b"host": host.encode(), b"origin": given_origin}
    own = given_origin in (f"http://{host}".encode(), b"https://studio.example")
    assert (policy.refusal(headers) is None) == own


@pytest.mark.parametrize(
    "origin", ["null", "http://127.0.0.1:8", "https://127.0.0.1:7", "http://127.0.0.1", "http://localhost:7"]
)
def test_near_misses_of_its_own_origin_are_refused(origin) -> None:
    assert OriginPolicy().refusal(headers_of(host="127.0.0.1:7", origin=origin)) is not None


@pytest.mark.parametrize("text", ["app.example", "https://app.example/path", "", "*", "https://"])
def test_text_that_is_not_an_origin_is_a_clear_error(text) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        parse_origin(text)
    with pytest.raises(ValueError, match="is not an origin"):
        Emulator(allow_origin=text)


def test_default_ports_are_left_out_as_browsers_do() -> None:
    assert parse_origin("https://App.example:443/") == "https://app.example"
    assert parse_origin("http://[::1]:3000") == "http://[::1]:3000"


@pytest.mark.parametrize(
    ("name", "value"), [("Origin", "https://evil.example"), ("Origin", "null"), ("Host", "evil.example")]
)
def test_every_route_refuses_what_is_foreign(name, value) -> None:
    with run_in_thread() as emulator, httpx.Client(base_url=emulator.base_url, trust_env=False) as client:
        key = {"Authorization": f"Bearer {emulator.client_options['api_key']}"}
        for method, path in ROUTES:
            response = client.request(method, path, headers={**key, name: value})
            assert response.status_code == 403, (method, path)
            assert response.json()["errors"][0]["code"] == "forbidden"
            assert "access-control-allow-origin" not in response.headers
        assert emulator.log.posts == 0
        with pytest.raises(InvalidStatus) as refused:
            if name == "Host":
                address = emulator.client_options["ws_base_url"].replace("127.0.0.1", value)
                port = int(emulator.base_url.rpartition(":")[2])
                connect(address, sock=socket.create_connection(("127.0.0.1", port)), proxy=None)
            else:
                connect(emulator.client_options["ws_base_url"], origin=value, proxy=None)
        assert refused.value.response.status_code == 403
        assert emulator.log.connections == 0


def test_an_allowed_page_may_do_what_a_client_does() -> None:
    page = "http://localhost:3000"
    with run_in_thread(allow_origin=page) as emulator, httpx.Client(trust_env=False) as client:
        options = emulator.client_options
        asked = {"Origin": page, "Access-Control-Request-Headers": "authorization,content-type"}
        preflight = client.options(options["http_base_url"], headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == page
        assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
        headers = {"Origin": page, "Authorization": f"Bearer {options['api_key']}"}
        answer = client.post(options["http_base_url"], json=[image()], headers=headers)
        assert answer.headers["access-control-allow-origin"] == page
        medium = client.get(answer.json()["data"][0]["imageURL"], headers={"Origin": page})
        assert (medium.status_code, medium.headers["access-control-allow-origin"]) == (200, page)
        with connect(options["ws_base_url"], origin=page, proxy=None) as peer:
            peer.send(json.dumps([{"taskType": "authentication", "apiKey": options["api_key"]}]))
            assert "data" in json.loads(peer.recv(5))


def test_faults_reach_the_socket_of_an_allowed_page() -> None:
    with run_in_thread(allow_origin="http://localhost:3000", faults=["cut"]) as emulator:
        headers = {"Origin": "http://localhost:3000", "Authorization": f"Bearer {emulator.client_options['api_key']}"}
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(emulator.client_options["http_base_url"], json=[image()], headers=headers, trust_env=False)


def test_each_start_has_a_key_of_its_own_unless_one_is_given(run) -> None:
    async def main() -> None:
        keys = []
        emulator = Emulator()
        for _ in range(2):
            async with emulator:
                keys.append(emulator.client_options["api_key"])
        async with Emulator(api_key="mine") as given_key, open_rest(given_key, key="mine") as rest:
            await rest.post(image())
            keys.append(given_key.client_options["api_key"])
        assert len(set(keys)) == 3
        assert min(map(len, keys[:2])) >= 32

    run(main)


def test_media_never_run_as_a_page_of_the_emulator(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            answer = await rest.post(image())
            served = await rest.get(answer["data"][0]["imageURL"])
            assert served.headers["content-security-policy"] == "sandbox"
            assert served.headers["x-content-type-options"] == "nosniff"

    run(main)
