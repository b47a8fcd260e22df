"""`node.save` and `many.save`: where files are, what they hold, what is refused, and what a journal remembers."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from PIL import Image

from runware_flow import Abandoned, Batch, Client, DeclarationError, Flow, FlowFailed, Retry, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.tasks import Caption, ImageInference, TextInference

SIZE = (512, 256)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def art(prompt, **parameters):
    return ImageInference(
        model="runware:400@1", positive_prompt=f"picture {prompt}", width=512, height=256, **parameters
    )


def files(folder):
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [str(path.relative_to(folder)) for path in found]


def served(main, **options):
    async def runner():
        async with Emulator(latency=0.01, **options) as emulator, Client(**emulator.client_options) as client:
            await main(emulator, client)

    return runner


def test_saved_files_are_named_by_their_template_and_content(run, folder):
    async def main(emulator, client):
        flow = Flow("poster")
        one = flow.then(art("a kite"), label="kite").save("out/{label}-{index}")
        many = flow.map(["a", "b"], art, label="art").save("out/{flow}/{label}-{index:02}.jpg")
        pictures = flow.each(art("c", number_results=2, output_format="PNG"), label="c").save(
            Path("each/{label}{index}")
        )
        result = await flow.execute(client)
        assert result[one] == Path("out/kite-0.jpg")
        assert result[many] == [Path("out/poster/art-00.jpg"), Path("out/poster/art-01.jpg")]
        assert result[pictures] == [Path("each/c0.png"), Path("each/c1.png")]
        for path in [result[one], *result[many], *result[pictures]]:
            with Image.open(path) as image:
                assert image.size == SIZE
        assert len(files(folder)) == 5

    run(served(main))


def test_saved_files_of_nested_items_and_keys_do_not_meet(run, folder):
    async def main(emulator, client):
        flow = Flow("nested")
        arts = flow.map(["../a", "b/c"], art, key=lambda prompt: prompt, label="art")
        keyed = arts.save("keys/{key}")
        both = arts.pipe(
            lambda image: image.pick(lambda _: ["x", "y"]).map(art, label="inner").save("inner/{index}").gather()
        )
        result = await flow.execute(client)
        assert len(set(result[keyed])) == 2
        assert {path.parent for path in result[keyed]} == {Path("keys")}
        assert [[path.stem for path in paths] for paths in result[both]] == [["0-0", "0-1"], ["1-0", "1-1"]]

    run(served(main))


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("out/{label}", "is the same file for every item of 'art"),
        ("out/{name}", "which nothing is put into; there are: {flow}"),
        ("out/", "names no file"),
    ],
)
def test_template_that_cannot_work_is_refused_where_it_is_declared(template, sentence):
    arts = Flow("x").map(["a"], art, label="art")
    with pytest.raises(DeclarationError) as caught:
        arts.save(template)
    assert sentence in str(caught.value)
    assert f"declared at {__file__}" in str(caught.value)


def test_two_nodes_with_one_file_are_an_error_that_names_both(run, folder):
    async def main(emulator, client):
        flow = Flow("x")
        arts = flow.map(["a", "b"], art, label="art")
        arts.save("out/{index}", label="first")
        arts.then(lambda _: art("again"), label="again").save("out/{index}", label="second")
        with pytest.raises(FlowFailed) as caught:
            await flow.execute(client)
        error = caught.value.__cause__
        assert isinstance(error, DeclarationError)
        assert "would both be saved as 'out/" in str(error)
        assert "first" in str(error)
        assert "second" in str(error)

    run(served(main))


@pytest.mark.parametrize("other", ["./out//one", "out/sub/../one", "out/one.jpg"])
def test_one_file_by_two_names_is_an_error_too(run, folder, other):
    async def main(emulator, client):
        flow = Flow("x")
        flow.then(art("a kite")).save("out/one")
        flow.then(art("a boat")).save(other)
        with pytest.raises(FlowFailed, match="would both be saved as"):
            await flow.execute(client)

    run(served(main))


def test_same_flow_may_save_again_and_in_two_runs_at_once(run, folder):
    async def main(emulator, client):
        flow = Flow("x")
        path = flow.then(art("a"), label="art").save("{label}")
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(flow.execute, client)
        assert (await flow.execute(client))[path] == Path("art.jpg")
        assert files(folder) == ["art.jpg"]

    run(served(main))


def test_save_of_a_result_without_a_medium_fails_with_a_sentence(run, folder):
    async def main(emulator, client):
        flow = Flow("x")
        question = TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "Hi"}])
        flow.then(question, label="text").save("{label}")
        with pytest.raises(FlowFailed) as caught:
            await flow.execute(client)
        assert "was given a TextResult, not a medium" in str(caught.value.__cause__)

    run(served(main))


def test_save_that_fails_leaves_no_file_and_is_tried_again_with_a_retry(run, folder):
    async def main(emulator, client):
        flow = Flow("x")
        path = flow.then(art("a"), label="art").save("{label}", retry=Retry(3, backoff=0.0))
        fetched = []
        save = client.save

        async def failing(result, target):
            fetched.append(target)
            if len(fetched) < 3:
                raise RunwareError("the network is away", code="connection")
            return await save(result, target)

        client.save = failing
        result = await flow.execute(client)
        assert result[path] == Path("art.jpg")
        assert fetched == ["art"] * 3  # a connection is an error that a task would not be sent again after
        assert files(folder) == ["art.jpg"]

    run(served(main))


def test_save_that_is_cancelled_is_nothing_that_may_be_billed(run, folder):
    async def main(emulator, client):
        flow = Flow("x")
        path = flow.then(art("a"), label="art").save("{label}")
        began = anyio.Event()

        async def never(result, target):
            began.set()
            await anyio.sleep_forever()

        client.save = never
        with anyio.CancelScope() as scope:
            async with flow.start(client) as started:
                await began.wait()
                scope.cancel()
                await anyio.sleep_forever()
        assert started.result.outcome(path) == Abandoned(None, may_be_billed=False)

    run(served(main))


def test_journal_remembers_what_is_saved_while_it_is_there(run, folder):
    async def main(emulator, client):
        def declare():
            flow = Flow("x", journal="run.sqlite")
            return flow, flow.then(art("a"), label="art").save("out/{label}")

        flow, path = declare()
        await anyio.Path((await flow.execute(client))[path]).write_text("mine now")
        fetches = emulator.log.fetches
        flow, path = declare()
        assert (await flow.execute(client))[path] == Path("out/art.jpg")
        assert await anyio.Path("out/art.jpg").read_text() == "mine now"
        assert emulator.log.fetches == fetches
        await anyio.Path("out/art.jpg").unlink()
        for _ in range(2):
            flow, path = declare()
            with Image.open((await flow.execute(client))[path]) as image:
                assert image.size == SIZE
        assert emulator.log.fetches == fetches + 1
        assert len(emulator.log.asked) == 1

    run(served(main))


def poster(template):
    def build(flow, prompt):
        return flow.then(art(prompt), label="art").save(template)

    return build


async def all_of(batch, client):
    async with batch.run(["a", "b"], client) as outcomes:
        return [item async for item in outcomes]


def test_batch_saves_each_item_under_its_index(run, folder):
    async def main(emulator, client):
        batch = Batch(poster("out/{label}-{index}"), journal="batch.sqlite")
        items = await all_of(batch, client)
        assert sorted(str(item.outcome.value) for item in items) == ["out/art-0.jpg", "out/art-1.jpg"]
        await anyio.Path("out/art-1.jpg").unlink()
        items = await all_of(batch, client)
        assert [item.is_restored for item in items].count(False) == 1
        assert files(folder / "out") == ["art-0.jpg", "art-1.jpg"]
        assert len(emulator.log.asked) == 2

    run(served(main))


def test_batch_template_that_is_the_same_for_each_item_is_an_error(run, folder):
    async def main(emulator, client):
        batch = Batch(poster("out/{label}"), on_error="continue")
        for item in await all_of(batch, client):
            assert "the same file for every item of the batch" in str(item.outcome.error)
        assert not files(folder)

    run(served(main))


def test_caption_of_a_saved_file_is_possible(run, folder):
    async def main(emulator, client):
        flow = Flow("x")
        path = flow.then(art("a red kite"), label="art").save("{label}")
        text = path.then(lambda file: Caption(model="runware:150@2", inputs={"image": file}))
        result = await flow.execute(client)
        assert "a red kite" in result[text].text

    run(served(main))
