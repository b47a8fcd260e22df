"""Content encodings: one at most, in pieces of bounded size."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.transport.decoding import PIECE_BYTES, BodyDecoder, EncodingError


def bare(data):
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


ENCODERS = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "X-GZip": gzip.compress,
    "deflate": zlib.compress,
    "identity, deflate": bare,
}


def decode(encoding, pieces):
    decoder = BodyDecoder(encoding)
    decoded = [part for piece in pieces for part in decoder.feed(piece)]
    decoder.end()
    return decoded


@given(st.binary(max_size=3000), st.sampled_from(sorted(ENCODERS)), st.integers(1, 500), st.integers(1, 50))
def test_decoder_gives_what_was_encoded_however_it_is_cut(data, encoding, size, repeats):
    encoded = ENCODERS[encoding](data * repeats)
    pieces = [encoded[at : at + size] for at in range(0, len(encoded), size)]
    assert b"".join(decode(encoding, pieces)) == data * repeats


def test_decoder_gives_bounded_pieces_of_a_body_that_swells():
    encoded = gzip.compress(bytes(200 * 2**20))
    decoder = BodyDecoder("gzip")
    tracemalloc.start()
    try:
        sizes = [len(piece) for piece in decoder.feed(encoded)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == 200 * 2**20
    assert max(sizes) <= PIECE_BYTES
    assert peak < 4 * len(encoded) + 8 * PIECE_BYTES


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip,identity,deflate", "br", "zstd", "compress", "gzip\xff"])
def test_decoder_refuses_what_was_not_asked_for(encoding):
    with pytest.raises(EncodingError):
        BodyDecoder(encoding)


@pytest.mark.parametrize("data", [b"this is no gzip", gzip.compress(b"x" * 100, mtime=0)[:-3]])
def test_decoder_says_that_a_body_is_damaged(data):
    with pytest.raises(EncodingError, match="does not match its Content-Encoding"):
        decode("gzip", [data])
