"""Text that JSON may not hold: kept or replaced, never lost, and read in one pass."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.errors import ProtocolError, RunwareError
from runware_flow.results import CaptionResult
from runware_flow.session.streaming import DeltaKind, StreamMachine
from runware_flow.wire import salvage
from runware_flow.wire.frames import decode_frame, decode_reply, decode_result
from runware_flow.wire.webhooks import read_webhook

TEXTS = [
    ('say \\"hi\\" \x01\x1b[0m', 'say "hi" \x01\x1b[0m'),
    ("half \\ud83d of one", "half \ufffd of one"),
    ("other half \\ude00", "other half \ufffd"),
    ("both \\ud83d\\ude00", "both \U0001f600"),
    ("wrong way round \\ude00\\ud83d", "wrong way round \ufffd\ufffd"),
    ("a raw line\nfeed\tand tab", "a raw line\nfeed\tand tab"),
    ("no escape \\q and \\u12", "no escape \\q and \\u12"),
    ("backslash \\\\ud83d", "backslash \\ud83d"),
]


def item(text):
    return b'{"taskType":"caption","taskUUID":"1","cost":0.5,"text":"%s"}' % text.encode()


@pytest.mark.parametrize(("text", "meant"), TEXTS)
@pytest.mark.parametrize("wrap", ["frame", "reply", "flat", "webhook"])
def test_text_is_kept_whatever_way_it_comes(text, meant, wrap):
    body = item(text) if wrap == "flat" else b'{"data":[%s]}' % item(text)
    if wrap == "webhook":
        [notice] = read_webhook(body)
        result = notice.result
    else:
        frame = decode_reply(200, body) if wrap == "reply" else decode_frame(body)
        result = decode_result(frame.items[0], CaptionResult)
    assert result.text == meant
    assert result.cost == 0.5
    assert result.raw["text"] == meant


@pytest.mark.parametrize(("text", "meant"), TEXTS)
def test_text_in_the_archive_is_kept(text, meant):
    details = b'{"data":[{"taskType":"getTaskDetails","taskUUID":"1","response":{"data":[%s]}}]}' % item(text)
    [found] = decode_frame(details).items
    response = salvage.mapping(found.raw)[0]["response"]
    assert response["data"][0]["text"] == meant


def stream(*events):
    machine = StreamMachine("1")
    deltas = [delta for event in events for delta in machine.feed(event)]
    return machine, deltas


def event(text, kind="text"):
    return b'data: {"delta":{"%s":"%s"}}\n\n' % (kind.encode(), text.encode())


@pytest.mark.parametrize(("text", "meant"), [pair for pair in TEXTS if "\n" not in pair[0]])
def test_streamed_text_is_kept(text, meant):
    machine, deltas = stream(event(text), b"data: [DONE]\n\n")
    assert "".join(delta.text for delta in deltas) == machine.end().text == meant


def test_stream_character_cut_between_two_pieces_is_one():
    machine, deltas = stream(
        event("a \\ud83d"),
        event("r \\ud83c", "reasoningContent"),
        event("\\ude00 b"),
        event("\\udf08", "reasoningContent"),
        event("\\ud83d"),
        b"data: [DONE]\n\n",
    )
    text = "".join(delta.text for delta in deltas if delta.kind is DeltaKind.TEXT)
    assert text == machine.end().text == "a \U0001f600 b\ufffd"
    assert machine.end().reasoning == "r \U0001f308"


@given(st.text(st.characters(codec=None, categories=["L", "Cs", "So", "Cc"]), max_size=12), st.data())
def test_stream_pieces_come_to_the_same_text_however_it_is_cut(text, data):
    units = [text[at : at + 1] for at in range(len(text))]
    halves = [half for unit in units for half in split(unit)]
    pieces, rest = [], halves
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.append("".join(rest[:size]))
        rest = rest[size:]
    machine, deltas = stream(*(b"data: " + encode(piece) + b"\n\n" for piece in pieces), b"data: [DONE]\n\n")
    assert "".join(delta.text for delta in deltas) == machine.end().text == salvage.whole("".join(halves))


def split(unit):
    if ord(unit) < 0x10000:
        return [unit]
    return [chr(0xD800 + ((ord(unit) - 0x10000) >> 10)), chr(0xDC00 + ((ord(unit) - 0x10000) & 0x3FF))]


def encode(piece):
    import json

    return json.dumps({"delta": {"text": piece}}).encode()


@pytest.mark.parametrize(
    "nothing", [b"data:\n\n", b"data: \n\n", b"data: ping\n\n", b"event: ping\ndata:\n\n", b": ping\n\n"]
)
def test_stream_events_that_keep_the_connection_open_are_passed_over(nothing):
    machine, deltas = stream(nothing, event("a"), nothing, event("b"), b"data: [DONE]\n\n")
    assert [delta.text for delta in deltas] == ["a", "b"]
    assert machine.end().text == "ab"


def test_stream_chunk_in_a_list_is_read():
    machine, _ = stream(
        b'data: {"data":[{"delta":{"text":"a"}},{"delta":{"text":"b"},"finishReason":"stop","cost":0.25}]}\n\n'
    )
    done = machine.end()
    assert (done.text, done.finish_reason, done.cost) == ("ab", "stop", 0.25)


@pytest.mark.parametrize(
    "told",
    [
        b'event: error\ndata: {"code":"providerError","message":"it broke"}\n\n',
        b'data: {"code":"providerError","message":"it broke"}\n\n',
        b'event: error\ndata: {"error":{"code":"providerError","message":"it broke"}}\n\n',
        b'data: {"data":[{"error":{"code":"providerError","message":"it broke"}}]}\n\n',
        b'data: {"errors":[{"code":"providerError","message":"it broke"}]}\n\n',
        b"event: error\ndata: it broke\n\n",
    ],
)
def test_stream_error_in_any_form_is_raised_with_its_words(told):
    machine, _ = stream(event("a"))
    with pytest.raises(RunwareError, match="it broke") as caught:
        machine.feed(told)
    if b"code" in told:
        assert caught.value.raw_code == "providerError"


SHAPES = {
    "escapes in a string that does not end": lambda n: b'{"data":"' + b'\\"' * n + b"}",
    "quotes": lambda n: b'{"data":' + b'"' * n + b"}",
    "backslashes": lambda n: b'{"data":["' + b"\\" * (2 * n + 1) + b'"]}',
    "brackets": lambda n: b'{"data":' + b"[" * n,
    "brackets that end": lambda n: b'{"data":' + b"[" * n + b"]" * n + b"}",
    "objects": lambda n: b'{"data":' + b'{"a":' * n,
    "commas": lambda n: b'{"data":[' + b"," * n + b"]}",
    "control characters": lambda n: b'{"data":[{"taskUUID":"1","text":"' + b"\x01" * n + b'"}]}',
    "halves": lambda n: b'{"data":[{"taskUUID":"1","text":"' + b"\\ud83d" * n + b'"}]}',
    "digits": lambda n: b'{"data":[{"taskUUID":"1","cost":' + b"1" * n + b"}]}",
    "spaces": lambda n: b'{"data":' + b" " * n + b"x",
    "members": lambda n: b'{"data":[{' + b",".join(b'"a%d":"\x02"' % at for at in range(n // 8)) + b"}]}",
    "items": lambda n: b'{"data":[' + b",".join([b'{"taskUUID":"1","text":"\x02"}'] * (n // 16)) + b"]}",
    "errors": lambda n: b'{"errors":[' + b",".join([b'{"taskUUID":"1","message":"\x02"}'] * (n // 16)) + b"]}",
}


def seconds(function, body):
    best = float("inf")
    for _ in range(4):
        began = time.thread_time()
        with suppress(ProtocolError, RunwareError):
            function(body)
        best = min(best, time.thread_time() - began)
    return best


def feed(body):
    StreamMachine("1").feed(b"data: " + body.replace(b"\n", b"") + b"\n\n")


@pytest.mark.parametrize("decode", [decode_frame, lambda body: decode_reply(500, body), read_webhook, feed])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_decoder_time_grows_with_the_bytes_and_not_with_their_square(decode, shape):
    # Both are nested more deeply than any Python's fast way goes, which is what makes 3.13 slower from a size on.
    few, many = shape(16_000), shape(64_000)
    ratio = seconds(decode, many) / max(seconds(decode, few), 1e-3)
    assert ratio < 10  # 4 is linear, 16 quadratic; between them is room for a busy machine


@given(st.binary(max_size=60))
def test_any_bytes_in_a_string_give_a_result_or_a_protocol_error(raw):
    body = b'{"data":[{"taskUUID":"1","text":"%s"}]}' % raw
    with suppress(ProtocolError):
        for one in decode_frame(body).items:
            assert isinstance(decode_result(one, CaptionResult).raw, dict)
