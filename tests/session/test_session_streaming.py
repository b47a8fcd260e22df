"""A streamed text task: pieces, the result, and every way in which it fails."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.errors import RunwareError
from runware_flow.graph.policies import is_verdict
from runware_flow.secret import Secret
from runware_flow.session import streaming
from runware_flow.session.streaming import DeltaKind, StreamMachine

BODY = (
    b": keepalive\n\n"
    b'data: {"taskUUID":"t","delta":{"reasoningContent":"hmm "}}\n\n'
    b'data: {"taskUUID":"t","delta":{"text":"Hel"}}\n\n'
    + 'data: {"taskUUID":"t","delta":{"text":"lo 🪁"},"finishReason":null}\n\n'.encode()
    + b'data: {"taskUUID":"t","finishReason":"stop"}\n\n'
    b'data: {"taskUUID":"t","usage":{"promptTokens":3,"completionTokens":2,"totalTokens":5},"cost":0.00001}\n\n'
    b"data: [DONE]\n\n"
)


def play(body: bytes, *cuts: int):
    machine = StreamMachine("t")
    places = [0, *sorted(cuts), len(body)]
    deltas = []
    for start, end in itertools.pairwise(places):
        deltas.extend(machine.feed(body[start:end]))
    return machine, deltas


def test_stream_gives_pieces_in_order_and_one_result():
    machine, deltas = play(BODY)
    assert [(delta.kind, delta.text) for delta in deltas] == [
        (DeltaKind.REASONING, "hmm "),
        (DeltaKind.TEXT, "Hel"),
        (DeltaKind.TEXT, "lo 🪁"),
    ]
    assert machine.is_done
    result = machine.end()
    assert (result.text, result.reasoning, result.finish_reason) == ("Hello 🪁", "hmm ", "stop")
    assert result.usage == {"promptTokens": 3, "completionTokens": 2, "totalTokens": 5}
    assert result.cost == 0.00001
    assert result.task_uuid == "t"


@given(st.lists(st.integers(0, len(BODY)), max_size=8))
def test_stream_is_the_same_for_every_cut(cuts):
    whole, deltas = play(BODY)
    machine, cut_deltas = play(BODY, *cuts)
    assert cut_deltas == deltas
    assert machine.end() == whole.end()


def test_stream_that_breaks_off_is_an_error_and_not_a_short_answer():
    machine, deltas = play(BODY[: BODY.index(b'data: {"taskUUID":"t","finishReason":"stop"')])
    assert len(deltas) == 3
    with pytest.raises(RunwareError, match="broke off") as caught:
        machine.end()
    assert (caught.value.code, caught.value.task_uuid) == ("connection", "t")


def test_stream_with_a_finish_reason_needs_no_done():
    machine, _ = play(BODY[: BODY.index(b"data: [DONE]")])
    assert machine.end().finish_reason == "stop"


def test_stream_after_done_is_not_read():
    machine, deltas = play(BODY + b'data: {"delta":{"text":"late"}}\n\ndata: garbage\n\n')
    assert len(deltas) == 3
    assert machine.end().text == "Hello 🪁"


@pytest.mark.parametrize(
    "event",
    [
        b'{"errors":[{"code":"providerError","message":"it broke","taskUUID":"t"}]}',
        b'{"error":{"code":"providerError","message":"it broke"}}',
        b'{"error":[{"code":"providerError","message":"it broke"}]}',
    ],
)
def test_stream_error_event_is_raised_with_the_pieces_before_it_kept(event):
    machine = StreamMachine("t")
    assert len(machine.feed(b'data: {"delta":{"text":"Hel"}}\n\n')) == 1
    with pytest.raises(RunwareError, match="it broke") as caught:
        machine.feed(b"data: " + event + b"\n\n")
    assert (caught.value.raw_code, caught.value.code, caught.value.task_uuid) == ("providerError", "provider", "t")


@pytest.mark.parametrize("event", [b"garbage", b"[1]", b"{", b'"text"'])
def test_stream_garbage_is_a_parse_error(event):
    with pytest.raises(RunwareError) as caught:
        play(b"data: " + event + b"\n\n")
    assert (caught.value.raw_code, is_verdict(caught.value)) == ("parseError", False)


@given(st.binary(max_size=200))
def test_stream_any_bytes_are_events_or_a_runware_error(body):
    machine = StreamMachine("t")
    try:
        machine.feed(body)
        machine.end()
    except RunwareError:
        pass


@pytest.mark.parametrize("delta", [b"null", b"7", b'{"text":7}', b'{"text":""}', b"{}"])
def test_stream_odd_deltas_are_passed_over(delta):
    machine, deltas = play(b'data: {"delta":' + delta + b',"cost":true,"usage":1,"finishReason":3}\n\ndata: [DONE]\n\n')
    assert deltas == []
    assert machine.end().cost is None


@pytest.mark.parametrize(
    "member",
    [
        b'"cost":1e999',
        b'"cost":1' + b"0" * 400,
        b'"cost":NaN',
        b'"x":' + b"1" * 5000,
        b'"x":' + b"[" * 3000 + b"]" * 3000,
    ],
)
def test_stream_loses_no_text_beside_a_member_that_cannot_be_read(member):
    machine, deltas = play(b'data: {"delta":{"text":"paid for"},' + member + b"}\n\ndata: [DONE]\n\n")
    assert [delta.text for delta in deltas] == ["paid for"]
    assert machine.end().cost is None


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000])
def test_stream_event_that_is_too_deep_is_a_parse_error(text):
    with pytest.raises(RunwareError) as caught:
        play(b"data: " + text + b"\n\n")
    assert caught.value.raw_code == "parseError"


@pytest.mark.parametrize("cut", range(1, 60, 4))
def test_stream_is_redacted_event_by_event_and_as_a_whole(cut):
    secret = Secret("rw-Sesame")
    body = (
        b'data: {"delta":{"text":"it is rw-Sesame","reasoningContent":"rw-Sesame?"}}\n\n'
        b'data: {"delta":{"text":" or rw-"}}\n\ndata: {"delta":{"text":"Sesame"}}\n\ndata: [DONE]\n\n'
    )
    machine = StreamMachine("t", redact=secret.redact)
    deltas = [*machine.feed(body[:cut]), *machine.feed(body[cut:])]
    assert [delta.text for delta in deltas] == ["<api key>?", "it is <api key>", " or rw-", "Sesame"]
    result = machine.end()
    assert (result.text, result.reasoning) == ("it is <api key> or <api key>", "<api key>?")


def test_stream_that_never_ends_is_bounded(monkeypatch):
    monkeypatch.setattr(streaming, "MAX_STREAM_CHARS", 10)
    machine = StreamMachine("t")
    event = b'data: {"delta":{"text":"four"}}\n\n'
    assert len(machine.feed(event * 2)) == 2
    with pytest.raises(RunwareError, match="longer than 10 characters"):
        machine.feed(event)
