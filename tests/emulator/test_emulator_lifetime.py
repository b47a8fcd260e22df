"""How an emulator starts and stops: again and again, cancelled, with open connections, in a thread, as a command."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading

import anyio
import pytest
from emulator_clients import open_rest, open_socket
from emulator_tasks import image
from waiting import wait_until

from runware_flow.emulator import Emulator, run_in_thread
from runware_flow.emulator.commands import emulate_command, parse_latency

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("watched")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def is_listening(emulator_url: str) -> bool:
    port = int(emulator_url.rsplit(":", 1)[1])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.exhaustive
def test_emulator_started_a_hundred_times_leaves_no_socket(run) -> None:
    async def main() -> None:
        async def once() -> None:
            async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
                await rest.post(image())

        await once()
        gc.collect()
        before = open_files()
        for _ in range(100):
            await once()
        gc.collect()
        assert open_files() <= before

    run(main)


def test_emulator_stopped_with_open_connections_closes_them_going_away(run, caplog) -> None:
    from websockets.exceptions import ConnectionClosedOK

    async def main() -> None:
        stack = Emulator(latency=60)
        async with stack as emulator:
            url = emulator.base_url
            client = open_socket(emulator)
            opened = await client.__aenter__()
            await opened.send(image())
            half = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
            half.sendall(b"POST /v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n[{")
            await wait_until(lambda: emulator.log.frames_received == 2)
        with pytest.raises(ConnectionClosedOK) as caught:
            await opened.receive()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
        await client.__aexit__(None, None, None)
        half.close()
        assert not is_listening(url)

    run(main)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_emulator_waiting_rest_request_is_given_up(run) -> None:
    async def main() -> None:
        statuses: list[int] = []

        async def ask(emulator: Emulator) -> None:
            async with open_rest(emulator) as rest:
                response = await rest.client.post(rest.url, json=[image()])
                statuses.append(response.status_code)

        async with anyio.create_task_group() as workers:
            async with Emulator(latency=60) as emulator:
                workers.start_soon(ask, emulator)
                await wait_until(lambda: bool(emulator.log.tasks))
        assert statuses == [503]

    run(main)


def test_emulator_cancelled_frees_its_port(run) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with Emulator() as emulator, open_socket(emulator):
                url = emulator.base_url
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert not is_listening(url)

    run(main)


class Boom(Exception):
    """An exception of the user's."""


def test_emulator_body_exception_leaves_as_itself(run) -> None:
    async def main() -> None:
        with pytest.raises(Boom):
            async with Emulator():
                raise Boom

    run(main)


def test_emulator_port_in_use_is_an_error_and_nothing_stays(run) -> None:
    async def main() -> None:
        async with Emulator() as emulator:
            port = int(emulator.base_url.rsplit(":", 1)[1])
            with pytest.raises(OSError, match="in use"):
                async with Emulator(port=port):
                    pass

    run(main)


def test_emulator_used_outside_its_block_says_so() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = Emulator().client_options


def test_emulator_entered_twice_says_so_and_can_be_used_again(run) -> None:
    async def main() -> None:
        emulator = Emulator(latency=0)
        async with emulator:
            with pytest.raises(RuntimeError, match="already"):
                async with emulator:
                    pass
        async with emulator, open_rest(emulator) as rest:
            await rest.post(image())
        assert len(emulator.log.asked) == 1

    run(main)


def test_emulator_in_a_thread_serves_synchronous_code(backend) -> None:
    import httpx

    before = threading.active_count()
    with run_in_thread(backend=backend, latency=0) as emulator:
        options = emulator.client_options
        key = {"Authorization": f"Bearer {options['api_key']}"}
        with httpx.Client(headers=key, trust_env=False) as client:
            body = client.post(options["http_base_url"], json=[image()]).json()
            assert client.get(body["data"][0]["imageURL"]).status_code == 200
        assert [entry.task_type for entry in emulator.log.asked] == ["imageInference"]
        url = emulator.base_url
    assert not is_listening(url)
    assert threading.active_count() <= before + 1


SERVE = "import sys; from runware_flow.emulator.commands import serve_command as s; sys.exit(s(backend=sys.argv[1]))"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_where_it_listens_and_ends_on_a_signal(backend, number) -> None:
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", SERVE, backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        options = json.loads(process.stdout.readline())
        assert set(options) == {
            "api_key",
            "http_base_url",
            "ws_base_url",
            "schemas_base_url",
            "content_base_url",
            "serverless_base_url",
        }
        assert is_listening(options["http_base_url"].removesuffix("/v1"))
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_emulate_gives_the_command_its_environment_and_returns_its_code(capfd) -> None:
    script = "import os, sys; print(os.environ['RUNWARE_WS_BASE_URL'], os.environ['RUNWARE_API_KEY']); sys.exit(3)"
    assert emulate_command([sys.executable, "-c", script]) == 3
    url, key = capfd.readouterr().out.split()
    assert url.startswith("ws://127.0.0.1:")
    assert key
    assert emulate_command(["/no/such/command"]) == 127
    assert capfd.readouterr().err == "cannot run /no/such/command: No such file or directory\n"
    assert emulate_command(["true"], faults=["explode"]) == 1
    assert "there is no fault 'explode'" in capfd.readouterr().err


def test_latency_text_is_a_number_a_range_or_either_by_type() -> None:
    assert parse_latency("0.05") == 0.05
    assert parse_latency("0.1..0.5") == (0.1, 0.5)
    assert parse_latency("caption=0.1,*=0.2..0.3") == {"caption": 0.1, "*": (0.2, 0.3)}
    with pytest.raises(ValueError, match="soon"):
        parse_latency("soon")


def test_plugin_gives_an_emulator_with_the_marks_options(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import anyio, httpx, pytest

        @pytest.mark.runware_emulator(latency=0, faults=["http:nth=1,status=418"])
        def test_it(runware_emulator, runware_client_options):
            async def main():
                async with httpx.AsyncClient(trust_env=False) as client:
                    return await client.post(runware_client_options["http_base_url"], json=[])
            assert anyio.run(main, backend="trio").status_code == 418
            assert runware_emulator.log.posts == 1
        """
    )
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:anyio")
    result.assert_outcomes(passed=1)
