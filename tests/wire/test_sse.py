"""Server-sent events: the standard's rules, and the same events for every way of cutting the bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.wire import sse
from runware_flow.wire.sse import EventDecoder, ServerEvent


def decode(*pieces: bytes) -> list[tuple[str, str]]:
    decoder = EventDecoder()
    return [(event.event, event.data) for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: one\n\n", [("message", "one")]),
        (b"data:one\n\n", [("message", "one")]),
        (b"data:  two spaces\n\n", [("message", " two spaces")]),
        (b"data: a\ndata: b\n\n", [("message", "a\nb")]),
        (b"data\n\n", [("message", "")]),
        (b"event: error\ndata: x\n\ndata: y\n\n", [("error", "x"), ("message", "y")]),
        (b": a comment\n\ndata: x\n\n", [("message", "x")]),
        (b"id: 7\nretry: 10\nunknown: z\ndata: x\n\n", [("message", "x")]),
        (b"event: lonely\n\ndata: x\n\n", [("message", "x")]),
        (b"data: x\r\n\r\ndata: y\r\rdata: z\n\n", [("message", "x"), ("message", "y"), ("message", "z")]),
        (b"\xef\xbb\xbfdata: x\n\n", [("message", "x")]),
        (b"\n\n\ndata: x\n\n\n\n", [("message", "x")]),
        (b"data: cut off\n", []),
        (b"data: \xff\xfe\n\n", [("message", "\ufffd\ufffd")]),
        ("data: ünï\u2028cödé 🪁\n\n".encode(), [("message", "ünï\u2028cödé 🪁")]),
    ],
)
def test_decoder_follows_the_standard(body, events):
    assert decode(body) == events
    assert decode(*(body[index : index + 1] for index in range(len(body)))) == events


LINES = st.lists(
    st.one_of(
        st.just(""),
        st.text(max_size=12).map(lambda text: f"data: {text}".replace("\r", "").replace("\n", "")),
        st.sampled_from([": comment", "event: kind", "data", "id: 1", "nonsense", "data:é", "data: 🪁"]),
    ),
    max_size=20,
)
ENDINGS = st.lists(st.sampled_from(["\n", "\r", "\r\n"]), min_size=20, max_size=20)


@given(LINES, ENDINGS, st.lists(st.integers(0, 400), max_size=12), st.booleans())
def test_decoder_gives_the_same_events_for_every_cut(lines, endings, cuts, has_bom):
    text = "".join(line + ending for line, ending in zip(lines, endings, strict=False))
    body = (b"\xef\xbb\xbf" if has_bom else b"") + text.encode("utf-8", "surrogatepass")
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(places)]
    assert decode(*pieces) == decode(body)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_decoder_takes_any_bytes(body, cut):
    assert decode(body[:cut], body[cut:]) == decode(body)


def test_decoder_refuses_an_event_without_end(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_CHARS", 1000)
    decoder = EventDecoder()
    with pytest.raises(ValueError, match="longer than 1000"):
        for _ in range(20):
            decoder.feed(b"data: " + b"x" * 100)
    ended = EventDecoder()
    for _ in range(20):
        assert ended.feed(b"data: " + b"x" * 100 + b"\n\n") == [ServerEvent("x" * 100)]
