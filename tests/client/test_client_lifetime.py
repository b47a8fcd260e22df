"""A client's block: how it opens, fails, is cancelled and closes, and what leaves it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import ssl
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
from waiting import wait_until

from runware_flow import Client, ClientStateError, RunwareError, RunwareTimeoutError
from runware_flow.emulator import Emulator, run_in_thread
from runware_flow.tasks import ImageInference
from runware_flow.transport import open_websocket

TASK = ImageInference(model="runware:400@1", positive_prompt="a kite", width=512, height=512)
KEY = "rw-secret-0123456789"


class Boom(Exception):
    """An exception of the user's."""


def test_client_body_exception_leaves_as_itself(run, open_pair):
    async def main():
        cause = KeyError("why")
        with pytest.raises(Boom) as caught:
            async with open_pair() as (_, client):
                await client.run(TASK)
                raise Boom from cause
        assert caught.value.__cause__ is cause

    run(main)


def test_submit_body_exception_leaves_as_itself(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(Boom):
                async with client.submit(TASK):
                    raise Boom

    run(main)


def test_client_never_used_needs_no_service(run, transport):
    async def main():
        async with Client(KEY, transport=transport, ws_base_url="ws://127.0.0.1:9/v1") as client:
            assert "open" in repr(client)
        assert "closed" in repr(client)

    run(main)


def test_client_rejected_key_fails_every_call_and_not_the_block(run, open_pair, transport, caplog):
    caplog.set_level(logging.DEBUG)

    async def main():
        errors = []
        async with open_pair({"api_key": KEY}) as (emulator, client):

            async def one():
                with pytest.raises(RunwareError) as caught:
                    await client.run(TASK)
                errors.append(caught.value)

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(one)
            await one()
            if transport == "websocket":
                with pytest.raises(RunwareError):
                    await client.connect()
        assert [error.code for error in errors] == ["auth"] * 4
        assert not emulator.log.tasks
        assert not any(KEY in f"{error} {error!r} {error.__dict__}" for error in errors)

    run(main)
    assert KEY not in caplog.text


def test_client_unreachable_host_is_one_clear_error(run, transport):
    async def main():
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            options = {"http_base_url": f"http://127.0.0.1:{port}/v1", "ws_base_url": f"ws://127.0.0.1:{port}/v1"}
            async with Client(KEY, transport=transport, retry_delay=0.01, **options) as client:
                with pytest.raises(RunwareError, match=f"127.0.0.1:{port}") as caught:
                    await client.run(TASK)
        assert caught.value.code == "connection"

    run(main)


def test_client_connect_opens_before_the_first_task(run):
    async def main():
        async with Emulator() as emulator, Client(**emulator.client_options) as client:
            await client.connect()
            assert emulator.log.authentications == 1
            await client.connect()
            await client.run(TASK)
        assert emulator.log.connections == 1

    run(main)


def test_client_closed_says_so(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            pass
        with pytest.raises(ClientStateError, match="is closed"):
            await client.run(TASK)
        with pytest.raises(ClientStateError, match="entered once"):
            async with client:
                pass
        await client.aclose()

    run(main)


def test_client_used_from_another_thread_says_so(run, open_pair, backend):
    async def main():
        caught = []
        async with open_pair() as (_, client):

            def elsewhere():
                try:
                    anyio.run(client.run, TASK, backend=backend)
                except ClientStateError as error:
                    caught.append(str(error))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            await anyio.to_thread.run_sync(thread.join)
        assert "thread" in caught[0]

    run(main)


def test_client_used_from_another_event_loop_of_its_thread_says_so():
    """Only asyncio can have two loops that take turns in a thread."""
    entered, left = asyncio.Event(), asyncio.Event()
    clients = []

    async def hold(emulator):
        async with Client(**emulator.client_options) as client:
            clients.append(client)
            entered.set()
            await left.wait()
            assert (await client.run(TASK))[0].url

    async def use():
        client = clients[0]
        errors = []
        for call in (client.run(TASK), client.connect(), client.model_search("flux"), client.content.list_creators()):
            with pytest.raises(ClientStateError, match="event loop") as caught:
                await call
            errors.append(caught.value)
        return errors

    with run_in_thread(latency=0.0) as emulator, asyncio.Runner() as home, asyncio.Runner() as elsewhere:
        holding = home.get_loop().create_task(hold(emulator))
        home.run(entered.wait())
        assert len(elsewhere.run(use())) == 4
        left.set()
        home.run(asyncio.wait_for(holding, 10))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_client_used_after_a_fork_between_two_runs_of_its_loop_says_so():
    """Where no loop runs while the process forks, asyncio does not see in the child that it is one."""

    async def use(client):
        client.statistics()

    with run_in_thread() as emulator, asyncio.Runner() as runner:
        client = Client(**emulator.client_options)
        runner.run(client.run(TASK))
        said, says = os.pipe()
        if (child := os.fork()) == 0:
            try:
                runner.run(use(client))
            except ClientStateError as error:
                os.write(says, str(error).encode())
            finally:
                os._exit(0)
        os.close(says)
        assert b"process" in os.read(said, 1000)
        os.close(said)
        os.waitpid(child, 0)
        runner.run(client.aclose())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_client_used_after_a_fork_says_so(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            await client.run(TASK)
            said, says = os.pipe()
            if (child := os.fork()) == 0:
                try:
                    client.statistics()
                except ClientStateError as error:
                    os.write(says, str(error).encode())
                finally:
                    os._exit(0)
            os.close(says)
            sentence = await anyio.to_thread.run_sync(os.read, said, 1000)
            os.close(said)
            await anyio.to_thread.run_sync(os.waitpid, child, 0)
            assert (await client.run(TASK))[0].url
        assert b"process" in sentence

    run(main)


def test_client_closing_fails_calls_that_others_still_wait_for(run, open_pair):
    async def main():
        errors = []
        async with anyio.create_task_group() as group, open_pair(faults=["never"]) as (_, client):

            async def one():
                with pytest.raises(RunwareError) as caught:
                    await client.run(TASK)
                errors.append(caught.value)

            group.start_soon(one)
            await anyio.wait_all_tasks_blocked()
        assert [error.code for error in errors] == ["aborted"]

    run(main)


def test_client_user_connector_is_used(run):
    async def main():
        from runware_flow.transport.websocket import open_websocket

        urls = []

        def connector(url, **options):
            urls.append(url)
            return open_websocket(url, **options)

        async with Emulator() as emulator:
            async with Client(**emulator.client_options, connector=connector) as client:
                await client.run(TASK)
            assert urls == [emulator.client_options["ws_base_url"]]

    run(main)


def test_client_user_http_client_is_used_and_stays_open(run):
    async def main():
        import httpx

        async with Emulator() as emulator, httpx.AsyncClient() as http_client:
            async with Client(**emulator.client_options, transport="rest", http_client=http_client) as client:
                await client.run(TASK)
            assert not http_client.is_closed
        assert emulator.log.posts

    run(main)


def test_client_debug_log_goes_to_the_sink_without_key_or_prompt(run, open_pair):
    async def main():
        entries = []
        options = {"debug": True, "log_sink": entries.append}
        async with open_pair(options) as (emulator, client):
            await client.run(ImageInference(model="runware:400@1", positive_prompt="a very private kite"))
            with pytest.raises(RunwareError):
                await client.run({"model": "runware:400@1", "positivePrompt": "a kite", "width": -1, "height": 64})
        assert entries
        text = " ".join(map(repr, entries))
        assert emulator.client_options["api_key"] not in text
        assert "private" not in text

    run(main)


@pytest.mark.exhaustive
@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_client_cancelled_at_every_turn_leaves_nothing_behind(run, transport, delivery):
    """A cancel after the n-th turn of the loop, for n = 0, 1, 2, ... until the call is through."""
    trusted = ssl.create_default_context()  # read once, and not by each client

    async def attempt(emulator, turns):
        """Cancel after so many turns; tell whether the call finished before."""
        finished = False

        async def work():
            nonlocal finished
            async with Client(**emulator.client_options, transport=transport, ssl_context=trusted) as client:
                await client.run(TASK, delivery=delivery)
            finished = True

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return finished

    async def main():
        async with Emulator(latency=0.0) as emulator:
            turns = 0
            while not await attempt(emulator, turns):
                turns += 1 + turns // 12
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(5):
                await wait_until(lambda: not emulator.log.open_connections)
            assert turns > 10

    run(main)


def test_client_connector_that_fails_in_its_own_way_fails_the_call_and_not_the_block(run):
    async def main():
        def connector(url, **options):
            raise OSError("the tunnel is closed")

        async with Client(KEY, connector=connector) as client:
            for _ in range(2):
                with pytest.raises(RunwareError, match="the tunnel is closed") as caught:
                    await client.run(TASK)
        assert caught.value.code == "connection"

    run(main)


@pytest.mark.parametrize("fault", ["gives text", "fails to close"])
def test_client_connector_that_fails_once_in_its_own_way_costs_a_connection_and_no_call(run, fault):
    async def main():
        faults = []

        class Connected:
            def __init__(self, connection):
                self.send = connection.send
                self._connection = connection

            async def receive(self):
                frame = await self._connection.receive()
                if faults == ["gives text"]:
                    return frame.decode()
                if faults:
                    raise OSError("the tunnel is closed")
                return frame

        @asynccontextmanager
        async def connector(url, **options):
            async with open_websocket(url, **options) as connection:
                yield Connected(connection)
            if faults.pop() == "fails to close":
                raise OSError("the tunnel is closed already")

        async with Emulator() as emulator:
            options = emulator.client_options
            async with Client(**options, connector=connector, retry_delay=0.01) as client:
                await client.run(TASK)
                faults.append(fault)
                assert (await client.run(TASK))[0].url
                assert not faults
                faults.append("none")
            assert emulator.log.connections == 2

    run(main)


def test_client_log_sink_that_fails_is_logged_and_not_called_again(run, open_pair, caplog):
    async def main():
        def sink(entry):
            raise ZeroDivisionError

        async with open_pair({"debug": True, "log_sink": sink}) as (_, client):
            assert (await client.run(TASK))[0].url

    run(main)
    assert "the log sink failed" in caplog.text


def test_client_save_and_read_outside_the_block_say_so(run, open_pair, tmp_path):
    async def main():
        async with open_pair() as (_, client):
            (image,) = await client.run(TASK)
        with pytest.raises(ClientStateError, match="is closed"):
            await client.read(image)
        with pytest.raises(ClientStateError, match="is closed"):
            await client.save(image, tmp_path / "kite")

    run(main)


def test_client_opened_in_one_task_and_closed_in_another(run, transport):
    """As a fixture, a notebook cell or a start-up hook does."""

    async def main():
        async with Emulator(latency=0.0) as emulator:
            clients = []

            async def set_up():
                with anyio.CancelScope() as scope:
                    clients.append(await Client(**emulator.client_options, transport=transport).__aenter__())
                    await clients[0].run(TASK)
                    scope.cancel()  # the task that opened it is gone, and what it was in as well
                    await anyio.lowlevel.checkpoint()

            async def use():
                assert (await clients[0].run(TASK))[0].url

            async def tear_down():
                await clients[0].aclose()

            for step in (set_up, use, tear_down):
                async with anyio.create_task_group() as group:
                    group.start_soon(step)
            assert "closed" in repr(clients[0])
            await none_open(emulator)
        gc.collect()

    run(main)


def test_client_first_use_opens_it(run, transport):
    async def main():
        async with Emulator(latency=0.0) as emulator:
            client = Client(**emulator.client_options, transport=transport)
            assert "not opened" in repr(client)
            assert (await client.run(TASK))[0].url
            await client.aclose()
            await client.aclose()
            with pytest.raises(ClientStateError, match="closed"):
                await client.run(TASK)
            await none_open(emulator)
            unused = Client(**emulator.client_options)
            await unused.aclose()
            with pytest.raises(ClientStateError, match="closed"):
                await unused.run(TASK)

    run(main)


def test_client_outside_of_an_event_loop_says_so():
    with pytest.raises(ClientStateError, match="event loop"):
        Client(KEY).statistics()


def test_client_dropped_without_closing_closes_its_connections(run, transport):
    async def main():
        async with Emulator(latency=0.0) as emulator:
            client = Client(**emulator.client_options, transport=transport)
            assert (await client.run(TASK))[0].url
            del client
            gc.collect()
            await none_open(emulator)

    run(main)


def test_client_never_closed_ends_with_its_event_loop(backend, transport):
    with run_in_thread(latency=0.0) as emulator:
        clients = []

        async def main():
            clients.append(Client(**emulator.client_options, transport=transport))
            assert (await clients[0].run(TASK))[0].url

        anyio.run(main, backend=backend)
        gc.collect()  # an unclosed socket or task becomes a warning here, and a warning is an error
        clients.clear()
        gc.collect()


def test_client_closed_by_another_task_ends_the_calls_before_it_waits(run, open_pair):
    async def main():
        async with open_pair(faults=["never"]) as (_, client):
            errors = []

            async def call():
                with pytest.raises(RunwareError) as caught:
                    await client.run(TASK)
                errors.append(caught.value.code)

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await client.aclose()
        assert errors == ["aborted"]

    run(main)


def test_client_whose_worker_fails_gives_the_exception_to_its_calls(run, open_pair, monkeypatch):
    """A bug of the library raises in the calls, not in the event loop."""

    async def main():
        async with open_pair(faults=["never"]) as (_, client):
            errors = []

            async def call():
                with pytest.raises(Boom) as caught:
                    await client.run(TASK)
                errors.append(caught.value)

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                client._failed(Boom())
            assert len(errors) == 2
            client._workers.failure = errors[0]
            with pytest.raises(ClientStateError, match="has failed") as caught:
                await client.run(TASK)
            assert caught.value.__cause__ is errors[0]

    run(main)


def test_connect_to_a_service_that_has_gone_has_a_bound(run):
    async def main():
        async with Emulator(latency=0.0) as emulator:
            options = {**emulator.client_options, "timeout": 0.3, "retry_delay": 0.01}
            client = Client(**options)
            await client.connect()
        with anyio.fail_after(5), pytest.raises(RunwareTimeoutError, match=r"no connection within 0\.3 s"):
            while True:  # until the loss is known here
                await client.connect()
                await anyio.sleep(0.01)
        await client.aclose()

    run(main)


async def none_open(emulator):
    """Wait until the emulator has no connection."""
    with anyio.fail_after(5):
        await wait_until(lambda: not emulator.log.open_connections)


def test_client_that_is_disconnected_connects_again(run, transport):
    async def main():
        async with Emulator(latency=0.01) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                await client.disconnect()  # nothing was opened
                for opened in range(1, 4):
                    if opened == 2:
                        await client.connect()
                    assert await client.run(TASK)
                    if transport == "websocket":
                        assert emulator.log.connections == opened
                    await client.disconnect()
                    await client.disconnect()
                    assert "not opened" in repr(client)
                found = await client.content.list_models(limit=1)
                assert len(found) == 1
            with pytest.raises(ClientStateError):
                await client.run(TASK)
        gc.collect()

    run(main)


def test_client_disconnecting_fails_calls_that_wait_and_only_those(run, transport):
    async def main():
        async with Emulator(latency=5) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                failed = []

                async def wait():
                    with pytest.raises(RunwareError) as caught:
                        await client.run(TASK)
                    failed.append(caught.value.code)

                async with anyio.create_task_group() as callers:
                    callers.start_soon(wait)
                    await wait_until(lambda: emulator.log.asked)
                    await client.disconnect()
                assert failed == ["aborted"]
                assert (await client.model_search("flux", limit=1)).results

    run(main)
