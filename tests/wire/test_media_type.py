"""What a medium is: by its content, and by its name where the content says nothing."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from runware_flow.wire.media_type import HEAD_BYTES, UNKNOWN, extension_of, media_type_of


def ftyp(major, *compatible):
    body = major + b"\0\0\0\0" + b"".join(compatible)
    return (8 + len(body)).to_bytes(4, "big") + b"ftyp" + body + b"\0" * 40


def ebml(doctype):
    return b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84" + doctype


CONTENT = [
    (ftyp(b"heic", b"mif1", b"heic"), "image/heic", ".heic"),
    (ftyp(b"mif1", b"mif1", b"heic"), "image/heic", ".heic"),
    (ftyp(b"mif1", b"mif1", b"avif"), "image/avif", ".avif"),
    (ftyp(b"mif1", b"mif1"), "image/heif", ".heif"),
    (ftyp(b"avif", b"avif", b"mif1"), "image/avif", ".avif"),
    (ftyp(b"M4A ", b"M4A ", b"mp42", b"isom"), "audio/mp4", ".m4a"),
    (ftyp(b"crx ", b"crx ", b"isom"), "image/x-canon-cr3", ".cr3"),
    (ftyp(b"3gp4", b"isom", b"3gp4"), "video/3gpp", ".3gp"),
    (ftyp(b"3g2a"), "video/3gpp2", ".3g2"),
    (ftyp(b"isom", b"isom", b"iso2", b"avc1", b"mp41"), "video/mp4", ".mp4"),
    (ftyp(b"mp42", b"mp42", b"isom", b"M4A "), "video/mp4", ".mp4"),
    (ftyp(b"qt  "), "video/quicktime", ".mov"),
    (b"\xff\xfb\x90\x64" + b"\0" * 400, "audio/mpeg", ".mp3"),
    (b"\xff\xf3\x84\xc4" + b"\0" * 400, "audio/mpeg", ".mp3"),
    (b"ID3\x04" + b"\0" * 20, "audio/mpeg", ".mp3"),
    (b"\xff\xf1\x50\x80\x02\x1f\xfc", "audio/aac", ".aac"),
    (b"\xff\xf9\x50\x80\x02\x1f\xfc", "audio/aac", ".aac"),
    (b"FORM\0\0\0\x2eAIFFCOMM", "audio/aiff", ".aiff"),
    (b"FORM\0\0\0\x2eAIFCFVER", "audio/aiff", ".aiff"),
    (b"II*\0\x08\0\0\0", "image/tiff", ".tiff"),
    (b"MM\0*\0\0\0\x08", "image/tiff", ".tiff"),
    (b"RIFF\x10\0\0\0AVI LIST", "video/x-msvideo", ".avi"),
    (b"RIFF\x10\0\0\0WAVEfmt ", "audio/wav", ".wav"),
    (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp", ".webp"),
    (b"\xff\x0a\xfa\x7f", "image/jxl", ".jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "image/jxl", ".jxl"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", ".svg"),
    (b"<?xml version='1.0'?>\n<!-- a <b> -->\n<svg>", "image/svg+xml", ".svg"),
    (b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'x'>\n<svg>", "image/svg+xml", ".svg"),
    (b"<!DOCTYPE svg [ <!ENTITY a 'b'> ]>\n<svg>", "image/svg+xml", ".svg"),
    (b"\xef\xbb\xbf<!-- c --><svg/>", "image/svg+xml", ".svg"),
    (b"<?xml version='1.0'?><other/>", UNKNOWN, ".bin"),
    (ebml(b"webm"), "video/webm", ".webm"),
    (ebml(b"matroska"), "video/x-matroska", ".mkv"),
    (b"OggS\0\2", "audio/ogg", ".ogg"),
    (b"fLaC\0\0\0\x22", "audio/flac", ".flac"),
    (b"glTF\2\0\0\0", "model/gltf-binary", ".glb"),
    (b"ply\nformat ascii 1.0", "model/ply", ".ply"),
    (b"%PDF-1.7", "application/pdf", ".pdf"),
    (b"\xff\xfeh\0i\0", UNKNOWN, ".bin"),
    (b"hello", UNKNOWN, ".bin"),
    (b"", UNKNOWN, ".bin"),
]


@pytest.mark.parametrize(("head", "media_type", "extension"), CONTENT)
def test_media_type_by_content_whatever_the_name(head, media_type, extension):
    assert media_type_of(head) == media_type
    assert extension_of(head) == extension
    if media_type != UNKNOWN:
        assert media_type_of(head, "kite.txt") == media_type


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_media_type_of_real_pictures(kind):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, kind)
    assert media_type_of(file.getvalue()) == f"image/{kind.lower()}"


@pytest.mark.parametrize(
    ("container", "codec", "media_type"),
    [("mp3", "mp3", "audio/mpeg"), ("adts", "aac", "audio/aac"), ("aiff", "pcm_s16be", "audio/aiff"),
     ("ipod", "aac", "audio/mp4"), ("wav", "pcm_s16le", "audio/wav"), ("flac", "flac", "audio/flac")],
)  # fmt: skip
def test_media_type_of_real_sounds(container, codec, media_type):
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=44100)
        stream.layout = "mono"
        frame = av.AudioFrame(format=stream.format.name, layout="mono", samples=1024)
        frame.sample_rate = 44100
        frame.pts = 0
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for packet in (*stream.encode(frame), *stream.encode(None)):
            output.mux(packet)
    assert media_type_of(file.getvalue()) == media_type


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.jxl", "image/jxl"), ("a.AVIF", "image/avif"), ("b.m4a", "audio/mp4"), ("b.obj", "model/obj"),
     ("a.png", "image/png"), ("a", UNKNOWN), ("a.nothing", UNKNOWN)],
)  # fmt: skip
def test_media_type_by_name_where_the_content_says_nothing(name, media_type):
    assert media_type_of(b"??", name) == media_type


def test_media_type_looks_at_the_head_only():
    assert media_type_of(b" " * HEAD_BYTES + b"<svg>") == UNKNOWN
