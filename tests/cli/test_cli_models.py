"""`runware-flow models`: what it prints for people and for programs, with and without the service."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from runware_flow.cli.app import app
from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment


@pytest.fixture(scope="module")
def emulator():
    with run_in_thread(latency=0.0, models={"new:1@1": "imageInference"}) as running:
        yield running


@pytest.fixture
def call(emulator, monkeypatch):
    for name, value in environment(emulator).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RUNWARE_API_KEY")  # what is public needs none

    def runner(*arguments, code=0):
        done = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.stdout

    return runner


def test_search_lists_curated_models_without_a_key(call):
    lines = call("search", "flux", "--limit", "3").splitlines()
    assert len(lines) == 3
    assert all("flux" in line.lower() and "imageInference" in line for line in lines)
    assert [line.split()[0] for line in call("search", "400@1").splitlines()] == ["runware:400@1"]


def test_search_for_programs_and_by_category(call):
    found = json.loads(call("search", "kling", "--category", "video", "--json"))
    assert found
    assert {one["taskType"] for one in found} == {"videoInference"}
    assert set(found[0]) >= {"air", "slug", "taskType", "architecture", "name", "modality", "capabilities", "price"}


def test_search_by_what_a_model_does_shows_its_price(call):
    line = call("search", "remove", "background").splitlines()[0].split()
    assert line[:3] == ["ideogram:remove-background@0", "ideogram-remove-background", "removeBackground"]
    assert line[3] == "from"
    assert line[4].startswith("$0.0")


def test_search_without_words_lists_what_fits_the_options(call):
    captions = json.loads(call("search", "--task", "caption", "--json"))
    assert len(captions) == 7
    assert json.loads(call("search", "--takes", "outputFormat=JSON", "--creator", "google", "--json"))
    assert len(call("search", "--modality", "video", "--limit", "3").splitlines()) == 3


def test_search_that_finds_nothing_says_so(call):
    said = call("search", "no-such-model", code=1)
    assert said == "no curated model fits 'no-such-model'; --community searches all others\n"


def test_search_of_all_models_needs_the_key(call, emulator, monkeypatch):
    monkeypatch.setenv("RUNWARE_API_KEY", emulator.client_options["api_key"])
    found = json.loads(call("search", "portrait", "--community", "--category", "lora", "--limit", "2", "--json"))
    assert len(found) == 2
    assert all(one["air"] and one["name"] for one in found)


@pytest.mark.parametrize("name", ["bfl-flux-2-dev", "runware:400@1"])
def test_show_tells_what_a_model_takes(call, name):
    shown = call("show", name)
    assert "runware:400@1  bfl-flux-2-dev" in shown
    rows = {line.split()[1]: line for line in shown.splitlines() if line.startswith("*  ")}
    assert rows.keys() >= {"positivePrompt", "width", "height"}
    assert "128 to 2048; in steps of 64" in rows["width"]
    assert "price          from $" in shown
    assert ", and " in next(line for line in shown.splitlines() if " scheduler " in line)


def test_show_for_programs_has_every_parameter(call):
    shown = json.loads(call("show", "runware:150@2", "--json"))
    assert (shown["taskType"], shown["slug"]) == ("caption", shown["documentation"].rpartition("/")[2])
    parameters = {one["name"]: one for one in shown["parameters"]}
    assert parameters["model"]["required"]
    assert parameters["includeCost"]["default"] is False
    assert shown["pricingExamples"][0]["price"]


def test_show_spells_out_what_is_nested_and_ends_with_an_example(call):
    shown = call("show", "xai:tts@0")
    assert "speech.text" in shown
    assert shown.endswith("print(flow.run()[made].url)\n")
    rows = {line.split()[0]: line for line in call("show", "google-gemma-4-31b").splitlines() if "settings." in line}
    assert "0 to 2" in rows["settings.temperature"]


def test_show_model_that_is_newer_than_the_catalog_is_found(call):
    shown = call("show", "new:1@1")
    assert "imageInference" in shown
    assert "not in the catalog of this package" in shown


def test_show_community_model_of_which_nothing_is_known_says_so(call):
    assert call("show", "civitai:133005@782002", code=1) == ""


def test_refresh_shows_what_is_new(call):
    shown = call("refresh")
    assert "1 new:\nnew:1@1" in shown
    assert "gone" not in shown
    changes = json.loads(call("refresh", "--json"))
    assert [one["air"] for one in changes["added"]] == ["new:1@1"]
    assert changes["removed"] == changes["changed"] == []


def offline(*arguments):
    nowhere = dict.fromkeys(("RUNWARE_SCHEMAS_BASE_URL", "RUNWARE_CONTENT_BASE_URL"), "http://127.0.0.1:9")
    return subprocess.run(
        [sys.executable, "-m", "runware_flow", "models", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=nowhere,
    )


def test_without_a_network_the_catalog_answers_and_says_so():
    shown = offline("show", "bfl-flux-2-dev")
    assert shown.returncode == 0
    assert "128 to 2048" in shown.stdout
    assert "without description and price: " in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "bfl-flux-2-def"], "did you mean bfl-flux-2-dev"),
        (["refresh"], "127.0.0.1:9"),
        (["search", "--task", "captoin"], "did you mean caption?"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(arguments, sentence):
    done = offline(*arguments)
    assert done.returncode == 1
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
