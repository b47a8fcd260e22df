"""Every example is a whole program that runs against the emulator and does what it says."""

from __future__ import annotations

import ast
import asyncio
import csv
import json
import os
import re
import subprocess
import sys
import time
import types
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT_SECONDS = 50
LIMIT_LINES = 60
EMULATE = (sys.executable, "-m", "runware_flow", "emulate")


@pytest.fixture(scope="module")
def emulator():
    with run_in_thread(latency=0.02) as running:
        yield running


@pytest.fixture
def example(emulator, tmp_path):
    """Run an example in an empty folder, as a user does: `example("poster")` returns what it printed."""

    def runner(name, *args, faults=(), code=0):
        for fault in faults:
            emulator.faults.add(fault)
        try:
            done = subprocess.run(
                [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *args],
                cwd=tmp_path,
                env={**os.environ, **environment(emulator)},
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        finally:
            emulator.faults.clear()
        assert done.returncode == code, done.stderr
        assert "Warning" not in done.stderr  # what is not closed warns too late to end the program
        return done.stderr if code else done.stdout

    return runner


def size(path):
    with Image.open(path) as image:
        return image.size


def test_one_image_is_saved_and_its_cost_told(example, tmp_path):
    assert example("one_image").startswith("saved out/lighthouse.jpg, which cost 0.0")
    assert size(tmp_path / "out" / "lighthouse.jpg") == (512, 512)


def test_poster_under_emulate_prints_url_caption_and_cost(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "runware_flow", "emulate", "--", sys.executable, EXAMPLES / "poster.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    url, caption, cost = done.stdout.splitlines()
    assert url.startswith("http://127.0.0.1:")
    assert "A lighthouse at dusk" in caption
    assert "2048 x 2048" in caption
    assert cost.endswith(" USD")


def test_prompts_file_writes_a_line_for_each_prompt_also_for_the_failed_one(example, tmp_path):
    prompts = [f"picture {number}" for number in range(20)]
    prompts[7] = "a doomed boat"
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n\n", encoding="utf-8")
    printed = example("prompts_file", "prompts.txt", "captions.jsonl", faults=["fail:prompt=doomed"])
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(line["index"] for line in lines) == list(range(20))
    for line in lines:
        if line["index"] == 7:
            assert "failed" in line["error"]
        else:
            assert f'"{prompts[line["index"]]}"' in line["caption"]
    assert printed.startswith("19 captions in captions.jsonl")


def test_variants_enlarges_the_one_with_the_longest_caption(example, tmp_path):
    *variants, best = example("variants").splitlines()
    assert [line.split()[0] for line in variants] == ["98", "99", "100", "101"]
    assert best == "the best of 4: out/best.jpg"
    assert size(tmp_path / "out" / "best.jpg") == (1024, 1024)


def test_events_shows_each_caption_and_ends_with_all_done(example):
    lines = example("events").splitlines()
    assert len([line for line in lines if ": An image of" in line]) == 5
    assert any(line.startswith("[10 of 10 done, 0 running]") for line in lines)
    assert any(line.startswith("[done after") for line in lines)


def test_trio_main_prints_every_caption(example):
    lines = example("trio_main").splitlines()
    assert [line for line in lines if line != "still at it"] == [
        line for line in lines if line.startswith("An image of")
    ]
    assert '"a red boat"' in lines[-1]


def test_blocking_prints_url_and_caption_of_each_argument(example):
    lines = example("blocking", "a kite", "a tower").splitlines()
    assert lines[0].startswith("http://127.0.0.1:")
    assert '"a kite"' in lines[1]
    assert '"a tower"' in lines[3]


def test_blocking_failure_is_one_sentence_and_exit_code_1(example):
    *_, sentence = example("blocking", "a doomed kite", faults=["fail:prompt=doomed"], code=1).splitlines()
    assert sentence.startswith("flow 'blocking': ")
    assert "failed: The task failed" in sentence


def test_functions_write_a_file_for_each_topic(example, tmp_path):
    paths = example("functions").splitlines()
    assert len(paths) == 2
    assert {size(tmp_path / path) for path in paths} == {(512, 512)}


def test_local_picture_is_described_and_enlarged(example, tmp_path):
    Image.new("RGB", (96, 64), "red").save(tmp_path / "photo.png")
    caption, path = example("local_picture", "photo.png").splitlines()
    assert "96 x 64" in caption
    assert size(tmp_path / path) == (192, 128)


def test_local_picture_that_is_missing_is_one_sentence(example):
    sentence = example("local_picture", "nowhere.png", code=1)
    assert sentence.startswith("validation: inputs.image: there is no file ")
    assert len(sentence.splitlines()) == 1


def test_compare_models_has_a_line_for_each_model_whatever_became_of_it(example):
    ok, failed, unknown = example("compare_models", faults=["fail:model=runware:101@1"]).splitlines()
    assert ok.startswith("runware:400@1: An image of")
    assert failed.startswith("runware:101@1: skipped")
    assert "does not exist" in unknown


def test_thousand_prompts_are_all_described_and_the_one_that_fails_twice_is_named(example):
    failed, count, art, caption = example("thousand_prompts", faults=["fail:prompt=picture 500"]).splitlines()
    assert failed.endswith("picture 500: The task failed.")
    assert count.startswith("999 posters, 1 failed, ")
    assert art.startswith("art: 1001 x runware:400@1, ")
    assert caption.startswith("caption: 999 x runware:150@2, ")


def test_resume_after_crash_buys_each_result_once(example, emulator):
    before = len(emulator.log.tasks)
    lines = example("resume_after_crash").splitlines()
    killed = next(number for number, line in enumerate(lines) if line.startswith("-- killed: "))
    assert {line.partition(":")[0] for line in lines[killed + 1 : -1]} == {f"poster number {n}" for n in range(12)}
    assert " of 24 results restored; 0.0" in lines[-1]
    assert len(emulator.log.tasks) - before == 24


def test_image_to_video_saves_a_film_that_starts_with_the_picture(example, emulator, tmp_path):
    caption, saved = example("image_to_video").splitlines()
    assert caption.startswith('An image of "A lighthouse at dusk"')
    assert saved.startswith("out/lighthouse.mp4, 0.1")
    assert (tmp_path / "out" / "lighthouse.mp4").read_bytes()[4:8] == b"ftyp"
    assert emulator.log.tasks[-1].request["positivePrompt"].startswith(caption)


def test_fallback_model_makes_the_picture_that_the_first_choice_does_not(example):
    *lines, _ = example("fallback_model", faults=["fail:model=bfl:2@1,prompt=kite"]).splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["bfl:2@1", "runware:400@1", "bfl:2@1"]
    assert '"a kite"' in lines[1]


def test_stream_in_flow_shows_the_text_that_the_picture_is_made_from(example, emulator, tmp_path):
    scene, saved = example("stream_in_flow").splitlines()
    assert emulator.log.tasks[-1].request["positivePrompt"] == scene
    assert saved.startswith("out/scene.jpg, 0.0")
    assert size(tmp_path / "out" / "scene.jpg") == (512, 512)


def test_blocking_web_answers_every_thread_also_those_beside_a_failed_one(example):
    lines = example("blocking_web", "a kite", "a doomed boat", "a tower", faults=["fail:prompt=doomed"]).splitlines()
    assert [line[:3] for line in lines] == ["200", "502", "200"]
    assert "failed: The task failed" in lines[1]


@pytest.mark.exhaustive
def test_poster_tests_pass_by_themselves(tmp_path):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", EXAMPLES / "test_poster.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert "4 passed" in done.stdout, done.stdout


@contextmanager
def served(name):
    """The address of an application, served by Hypercorn, and the emulator behind it, where things take their time."""
    with run_in_thread(latency=0.4) as emulator:
        command = [
            sys.executable,
            "-X",
            "dev",
            "-m",
            "hypercorn",
            f"{EXAMPLES / name}:app",
            "--bind",
            "127.0.0.1:0",
        ]
        environ = {**os.environ, **environment(emulator)}
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as server:
            try:
                line = next(line for line in server.stderr if "Running on" in line)
                yield re.search(r"http://[\d.:]+", line)[0], emulator
            finally:
                server.terminate()
            assert "Warning" not in server.stderr.read()


@pytest.fixture
def web_app():
    with served("web_app.py") as running:
        yield running


def test_fastapi_app_answers_with_a_picture_and_sends_words_as_they_come():
    with served("fastapi_app.py") as (address, emulator):
        picture = httpx.post(f"{address}/pictures", params={"prompt": "a kite"}, timeout=20).json()
        assert httpx.get(picture["imageURL"]).content[:2] == b"\xff\xd8"
        assert picture["taskType"] == "imageInference"
        emulator.faults.add("throttle:rate=2000")
        with httpx.stream("GET", f"{address}/chat", params={"question": "Why do lighthouses blink?"}) as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            first = next(answer.iter_text())
            assert first
        deadline = time.monotonic() + 5
        while emulator.log.open_connections > 1 and time.monotonic() < deadline:  # the client keeps its WebSocket
            time.sleep(0.01)
        emulator.faults.clear()
        whole = httpx.get(f"{address}/chat", params={"question": "Why do lighthouses blink?"}, timeout=20).text
        assert len(whole) > len(first)
        assert emulator.log.posts == 2


def test_web_app_sends_the_events_of_a_run_and_ends_it_when_the_browser_leaves(web_app):
    address, emulator = web_app
    with httpx.stream("GET", f"{address}/posters", params={"prompt": "left alone"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert '"event": "NodeStarted"' in next(lines)
        while not emulator.log.tasks:
            time.sleep(0.01)
    # The other run begins later and takes twice as long, so it ends long after the first would have gone on.
    lines = httpx.get(f"{address}/posters", params={"prompt": "a kite"}, timeout=20).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [(event["step"], event["event"]) for event in events] == [
        (step, event) for step in ("art", "caption") for event in ("NodeStarted", "NodeSettled")
    ]
    assert sorted(task.task_type for task in emulator.log.tasks) == ["caption", "imageInference", "imageInference"]


def test_budget_stops_half_way_and_goes_on_with_a_larger_one(example):
    printed = example("budget")
    assert printed.startswith("flow 'coast' would send 12 tasks; cost: $0.0126\n")
    assert "spent 0.0057 USD, " in printed
    assert "of the budget of $0.0063 is left" in printed
    assert printed.endswith("6 captions, 0.009 USD for both runs together\n")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_is_short_tested_and_tells_how_to_try_it(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LIMIT_LINES
    tests = Path(__file__).read_text(encoding="utf-8")
    assert f'example("{path.stem}"' in tests or f'"{path.name}"' in tests or f"'{path.name}'" in tests
    assert re.search(rf"^Try it: `.*\bexamples/{path.name}", text, re.MULTILINE) or path.stem == "streaming"


def test_streaming_prints_the_answer_and_what_it_used(example):
    *_, answer, usage = example("streaming").splitlines()
    assert "lighthouses" in answer
    assert usage.startswith("[stop] {'promptTokens': ")


def test_webhooks_shows_each_picture_as_it_is_announced(example):
    assert example("webhooks", faults=["drop-poll"]) == "ready: True\n" * 3


def test_product_photos_writes_a_table_of_what_came_of_each(example, tmp_path):
    (tmp_path / "photos").mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (96, 64), colour).save(tmp_path / "photos" / f"{name}.png")
    assert example("product_photos", "photos", "out").startswith("2 photos")
    header, *rows = (tmp_path / "out" / "photos.csv").read_text().splitlines()
    assert header == "photo,file,text,cost,error"
    assert [row.split(",")[0] for row in rows] == ["a.png", "b.png"]
    assert all("A picture" in row for row in rows)
    assert size(tmp_path / "out" / "a.png") == (96, 64)
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.mode == "RGBA", "it is transparent where the background was"


def test_best_of_four_saves_one_of_four_for_each_prompt_and_buys_nothing_again(example, emulator, tmp_path):
    before = len(emulator.log.tasks)
    for _ in range(2):
        *lines, cost = example("best_of_four", "a red kite", "a blue boat").splitlines()
        assert lines == ["a red kite: out/0.jpg", "a blue boat: out/1.jpg"]
        assert cost.startswith("0.0")
    assert size(tmp_path / "out" / "1.jpg") == (512, 512)
    assert len(emulator.log.tasks) - before == 2 + 8


def test_storyboard_has_a_picture_and_a_voice_for_each_scene_that_the_model_wrote(tmp_path):
    scenes = [
        {"title": title, "picture": f"a {title}", "narration": f"Once, a {title}."} for title in ("whale", "boat")
    ]
    (tmp_path / "scenes.json").write_text(json.dumps(scenes))
    done = subprocess.run(
        [*EMULATE, "--answer", "scenes=@scenes.json", "--", sys.executable, EXAMPLES / "storyboard.py", "a whale"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "whale: out/picture-0.jpg, out/voice-0.wav",
        "boat: out/picture-1.jpg, out/voice-1.wav",
    ]
    assert (tmp_path / "out" / "voice-1.wav").read_bytes()[:4] == b"RIFF"


def test_csv_rows_goes_on_where_it_stopped(example, emulator, tmp_path):
    rows = [f"{number},thing {number}" for number in range(300)]
    rows[7] = "7,a doomed boat"
    (tmp_path / "products.csv").write_text("id,name\n" + "\n".join(rows))
    first = example("csv_rows", "products.csv", "done.csv", faults=["fail:prompt=doomed"])
    assert first.startswith("<BatchReport: 299 ok, 1 failed")
    bought = len(emulator.log.tasks)
    assert example("csv_rows", "products.csv", "done.csv").startswith("<BatchReport: 300 ok, 0 failed")
    assert len(emulator.log.tasks) - bought <= 2  # what had failed
    with (tmp_path / "done.csv").open(newline="") as lines:
        done = {key: text for key, text, _ in csv.reader(lines)}
    assert len(done) == 300
    assert all(text.startswith("An image of") for text in done.values())


def test_cells_of_the_notebook_run_in_order_and_show_their_results(emulator, tmp_path, monkeypatch):
    for name, value in environment(emulator).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")

    async def run_all():
        names, shown = {}, []
        for source in sources:
            shown.append(await run_cell(source, names))
        return shown

    _, picture, flow, cost, texts, rows, _ = asyncio.run(run_all())
    assert "<img" in shown_in_notebook(picture)
    assert "mermaid" in shown_in_notebook(flow) or "<svg" in shown_in_notebook(flow)
    assert cost > 0
    assert len(texts) == 3
    assert [row["input"] for row in rows if row["input"]]


async def run_cell(source, names):
    """Run a cell as a notebook does, with `await` at the top; gives the value of an expression at its end."""
    tree = ast.parse(source)
    is_shown = isinstance(tree.body[-1], ast.Expr)
    if is_shown:
        tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], tree.body[-1].value)
    code = compile(ast.fix_missing_locations(tree), "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = types.FunctionType(code, names)()
    if running is not None:
        await running
    return names.pop("_", None) if is_shown else None


def shown_in_notebook(value):
    if hasattr(value, "_repr_html_"):
        return value._repr_html_()
    return str(value._repr_mimebundle_())
