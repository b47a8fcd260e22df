"""Links from errors to the pages that help with them."""

from __future__ import annotations

import pytest

import runware_flow
from runware_flow.catalog.documentation import add_documentation, documentation_of
from runware_flow.errors import RunwareError

ROOT = "https://runware.ai/docs"


@pytest.mark.parametrize(
    ("code", "context", "page"),
    [
        ("validation", {"model": "runware:101@1", "parameter": "width"}, "models/bfl-flux-1-dev#request-width"),
        ("validation", {"model": "bfl-flux-1-dev"}, "models/bfl-flux-1-dev"),
        (
            "validation",
            {"model": "runware:101@1", "parameter": ("inputs.seedImage", "strength")},
            "models/bfl-flux-1-dev#request-inputs-seedimage",
        ),
        ("validation", {"model": "mine:1@1", "parameter": "width"}, "models"),
        ("quota", {"model": "runware:101@1"}, "models/bfl-flux-1-dev"),
        ("timeout", {"model": "runware:101@1"}, "models/bfl-flux-1-dev"),
        ("serverError", {"model": "runware:101@1"}, "models/bfl-flux-1-dev"),
        ("rateLimit", {"model": "civitai:1@2"}, "models"),
        ("aborted", {"model": "runware:101@1"}, "platform/errors"),
        ("validation", {"parameter": "width"}, "platform/errors"),
        ("auth", {"model": "runware:101@1"}, "platform/errors"),
        ("connection", {}, "platform/errors"),
        ("validation", {"task_type": "modelSearch", "parameter": "limit"}, "platform/model-search#request-limit"),
        ("serverError", {"task_type": "modelUpload"}, "platform/model-upload"),
        ("notFound", {"task_type": "getResponse"}, "platform/task-polling"),
    ],
)
def test_documentation_leads_to_the_page_that_helps(code, context, page) -> None:
    assert documentation_of(code, **context) == f"{ROOT}/{page}"


def test_documentation_named_by_the_service_wins_over_guessing() -> None:
    assert documentation_of("validation", model="runware:101@1", parameter="width", page="https://x/y") == (
        "https://x/y#request-width"
    )
    error = RunwareError("no", code="validation", documentation="https://x/own")
    assert add_documentation(error, model="runware:101@1").documentation == "https://x/own"


def test_create_runware_error_derives_code_and_link() -> None:
    error = runware_flow.create_runware_error(
        "invalidParameter", "Width must be a multiple of 64", parameter="width", task_type="imageInference"
    )
    assert (error.code, error.documentation) == ("validation", f"{ROOT}/platform/errors")
    known = runware_flow.create_runware_error("invalidWidth", "too wide", parameter="width", model="runware:101@1")
    assert known.documentation == f"{ROOT}/models/bfl-flux-1-dev#request-width"
