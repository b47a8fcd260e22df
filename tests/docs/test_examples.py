"""Every example is a whole program that runs against the emulator and does what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT_SECONDS = 50
LIMIT_LINES = 60


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
    assert sentence.startswith("validation: inputs.image: cannot read nowhere.png")
    assert len(sentence.splitlines()) == 1


def test_compare_models_has_a_line_for_each_model_whatever_became_of_it(example):
    ok, failed, unknown = example("compare_models", faults=["fail:model=runware:101@1"]).splitlines()
    assert ok.startswith("runware:400@1: An image of")
    assert failed.startswith("runware:101@1: skipped")
    assert "does not exist" in unknown


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_is_short_tested_and_tells_how_to_try_it(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LIMIT_LINES
    assert f'example("{path.stem}"' in Path(__file__).read_text(encoding="utf-8") or path.stem == "poster"
    assert f"-- python examples/{path.name}" in text


def test_streaming_prints_the_answer_and_what_it_used(example):
    *_, answer, usage = example("streaming").splitlines()
    assert "lighthouses" in answer
    assert usage.startswith("[stop] {'promptTokens': ")
