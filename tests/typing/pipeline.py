"""Never run: mypy strict and pyright strict must infer every node of a typical program, without one annotation."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from msgspec import Struct

from runware_flow import Batch, Client, Flow, Many, Node, Outcome, Result, Retry, RunResult
from runware_flow.batch.report import BatchReport
from runware_flow.results import CaptionResult, ImageResult, ModelSearchResult, TextResult, UpscaleResult
from runware_flow.tasks import Caption, ImageInference, TextInference, Upscale
from runware_flow.wire.content import ContentModel, Creator, Page
from runware_flow.wire.serverless import AppTask
from runware_flow.wire.states import TaskState

flow = Flow("lighthouse", concurrency=64)

# The pipeline of the README.
art = flow.then(ImageInference(model="runware:400@1", positive_prompt="A lighthouse at dusk", width=1024, height=1024))
big = art.then(lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2), retry=3)
text = big.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))
assert_type(art, Node[ImageResult])
assert_type(big, Node[UpscaleResult])
assert_type(text, Node[CaptionResult])

# Several nodes.
both = flow.join(art, text).then(
    lambda image, caption: TextInference(
        model="google:gemma@4-31b", messages=[{"role": "user", "content": f"{image.url} {caption.text}"}]
    )
)
assert_type(both, Node[TextResult])
same = flow.then(art, text, lambda image, caption: Caption(model="runware:150@2", inputs={"image": image.url}))
assert_type(same, Node[CaptionResult])

assert_type(flow.join(art, text).pick(lambda image, caption: (image.url, caption.text)), Node[tuple[str, str | None]])

# Transforms and functions.
link = art.pick(lambda image: image.url)
assert_type(link, Node[str])


async def count_words(caption: CaptionResult) -> int:
    return len((caption.text or "").split())


async def count_bytes(image: ImageResult) -> int:
    return len(image.url)


async def read_prompt() -> str:
    return "a red kite"


words = text.then(count_words)
assert_type(words, Node[int])
prompt = flow.then(read_prompt)
assert_type(prompt, Node[str])

# Fan-outs.
arts = flow.map(["a", "b"], lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt))
assert_type(arts, Many[ImageResult])
captions = arts.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))
assert_type(captions, Many[CaptionResult])
assert_type(captions.gather(), Node[list[CaptionResult]])
assert_type(captions.settled(), Node[list[Outcome[CaptionResult]]])
styled = arts.join(art).then(lambda image, style: Upscale(model="runware:504@1", inputs={"image": image}))
assert_type(styled, Many[UpscaleResult])
assert_type(arts.join(captions).pick(lambda image, caption: (image.url, caption.text)), Many[tuple[str, str | None]])
variants = flow.each(ImageInference(model="runware:400@1", positive_prompt="a kite", number_results=4))
assert_type(variants, Many[ImageResult])


def describe(image: Node[ImageResult]) -> Node[CaptionResult]:
    return image.then(lambda picture: Caption(model="runware:150@2", inputs={"image": picture}))


assert_type(arts.pipe(describe), Many[CaptionResult])
lines = text.pick(lambda caption: (caption.text or "").splitlines())
assert_type(lines, Node[list[str]])
pictures = lines.map(lambda line: ImageInference(model="runware:400@1", positive_prompt=line))
assert_type(pictures, Many[ImageResult])

# Choices: two ways, a race, the first few, a share that may fail.
way = art.branch(
    lambda image: image.cost is not None,
    lambda image: image.then(lambda picture: Upscale(model="runware:504@1", inputs={"image": picture})),
    lambda image: image,
)
assert_type(way, Node[UpscaleResult | ImageResult])
assert_type(arts.branch(lambda image: True, describe, lambda image: image), Many[CaptionResult | ImageResult])
assert_type(flow.race(art, big), Node[ImageResult | UpscaleResult])
assert_type(flow.race(art, art), Node[ImageResult])
assert_type(flow.race(art, big, text), Node[ImageResult | UpscaleResult | CaptionResult])
assert_type(flow.race(art, art, art, art), Node[ImageResult])
assert_type(arts.first(2), Node[list[ImageResult]])
borne = flow.map(["a", "b"], lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt), tolerate=0.1)
assert_type(borne, Many[ImageResult])

# Fallbacks: the same arguments, either result.
lettered = art.then(
    lambda image: Upscale(model="runware:504@1", inputs={"image": image}),
    fallback=lambda image: Caption(model="runware:150@2", inputs={"image": image}),
    retry=Retry(3, on=("provider",)),
    idle=60,
)
assert_type(lettered, Node[UpscaleResult | CaptionResult])
either = flow.then(
    ImageInference(model="runware:400@1", positive_prompt="a kite"),
    fallback=lambda: ImageInference(model="bfl:2@1", positive_prompt="a kite"),
)
assert_type(either, Node[ImageResult])
assert_type(
    flow.then(
        art,
        text,
        lambda image, caption: Caption(model="runware:150@2", inputs={"image": image}),
        fallback=lambda image, caption: Upscale(model="runware:504@1", inputs={"image": image}),
    ),
    Node[CaptionResult | UpscaleResult],
)
assert_type(
    flow.map(
        ["a"],
        lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt),
        fallback=lambda prompt: Caption(model="runware:150@2", inputs={"image": prompt}),
    ),
    Many[ImageResult | CaptionResult],
)
fixed = art.then(count_bytes).fallback(Caption(model="runware:150@2", inputs={"image": "kite.png"}))
assert_type(fixed, Node[int | CaptionResult])

assert_type(
    arts.fallback(Caption(model="runware:150@2", inputs={"image": "kite.png"})), Many[ImageResult | CaptionResult]
)
assert_type(fixed.fallback({"model": "runware:400@1"}), Node[int | CaptionResult | Result])

# Several results for each item.
four = arts.each(lambda image: ImageInference(model="runware:400@1", positive_prompt="a kite", number_results=4))
assert_type(four, Many[ImageResult])
assert_type(art.each(lambda image: ImageInference(model="runware:400@1", number_results=4)), Many[ImageResult])
best = arts.pipe(
    lambda node: (
        node.each(lambda image: ImageInference(model="runware:400@1", number_results=4))
        .gather()
        .pick(lambda found: found[0])
    )
)
assert_type(best, Many[ImageResult])


assert_type(flow.map(["a", "b"]), Many[str])
assert_type(
    flow.map(["a", "b"], label="prompt").each(
        lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt, number_results=4)
    ),
    Many[ImageResult],
)


# Typed answers.
class Scene(Struct):
    title: str


scenes = flow.then(TextInference(model="google:gemma@4-31b", messages=[], json_schema=list[Scene])).parse(list[Scene])
assert_type(scenes, Node[list[Scene]])
assert_type(
    scenes.map(lambda scene: ImageInference(model="runware:400@1", positive_prompt=scene.title)), Many[ImageResult]
)
assert_type(captions.parse(Scene), Many[Scene])
assert_type(scenes.map(), Many[Scene])

answers = arts.then(lambda image: TextInference(model="google:gemma@4-31b", messages=[], json_schema=Scene))
titles = answers.parse(Scene).pick(lambda scene: scene.title)
assert_type(titles, Many[str])
assert_type(
    answers.parse(Scene).each(
        lambda scene: ImageInference(model="runware:400@1", positive_prompt=scene.title, number_results=2)
    ),
    Many[ImageResult],
)

# Files.
assert_type(big.save("out/{label}"), Node[Path])
assert_type(arts.save("out/{label}-{index}", retry=3), Many[Path])

# A plain dict with wire names.
wire = flow.then({"model": "runware:400@1", "positivePrompt": "a kite"})
assert_type(wire, Node[Result])


# Covariance: a function over any medium takes both.
def width_of(nodes: Many[ImageResult] | Many[UpscaleResult]) -> None: ...


width_of(arts)
wider: Node[Result] = flow.race(art, big)


async def execute(client: Client) -> None:
    result = await flow.execute(client)
    assert_type(result, RunResult)
    assert_type(result[big], UpscaleResult)
    assert_type(result[text].text, str | None)
    assert_type(result[captions], list[CaptionResult])
    assert_type(result.outcome(text), Outcome[CaptionResult])
    assert_type(result.outcomes(captions), list[Outcome[CaptionResult]])
    assert_type(result.cost, float | None)
    images = await client.run(ImageInference(model="runware:400@1", positive_prompt="a kite"))
    assert_type(images, list[ImageResult])
    async with client.submit(Upscale(model="runware:504@1", inputs={"image": Path("kite.png")})) as delivery:
        async for item in delivery:
            assert_type(item, UpscaleResult)
    assert_type(await client.model_search("portrait", limit=10), ModelSearchResult)
    assert_type(await client.get_response("id"), TaskState)
    assert_type(await client.content.list_models(search="flux"), list[ContentModel])
    assert_type(await client.content.list_models(paginate=True, limit=5), Page[ContentModel])
    assert_type(await client.content.get_creator("google"), Creator | None)
    assert_type(await client.invoke("my-app", {"prompt": "hi"}), AppTask)
    async with flow.start(client) as run:
        async for finished in run.as_completed(captions):
            assert_type(finished.outcome, Outcome[CaptionResult])


# A batch: its items, and what they share.
def poster(flow: Flow, prompt: str) -> Node[CaptionResult]:
    return describe(flow.then(ImageInference(model="runware:400@1", positive_prompt=prompt)))


def style(flow: Flow) -> Node[ImageResult]:
    return flow.then(ImageInference(model="runware:400@1", positive_prompt="a style"))


def in_style(flow: Flow, prompt: str, style: ImageResult) -> Node[ImageResult]:
    return flow.then(
        ImageInference(model="runware:400@1", positive_prompt=prompt, inputs={"referenceImages": [style.url]})
    )


batch: Batch[str, CaptionResult] = Batch(poster, key=lambda prompt: prompt.lower(), tolerate=0.1)


async def work(client: Client) -> None:
    async with batch.run(["a kite"], client) as outcomes:
        async for item in outcomes:
            assert_type(item.input, str)
            assert_type(item.outcome, Outcome[CaptionResult])
    async with Batch(in_style).run(["a kite"], client, shared=style) as made:
        async for one in made:
            assert_type(one.outcome, Outcome[ImageResult])
    assert_type(await Batch(in_style).collect(["a kite"], shared=style), BatchReport)
