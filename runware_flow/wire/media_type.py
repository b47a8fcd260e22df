"""Recognises the type of a medium by its first bytes or its name, and gives the extension of its file.

One table for all that this library reads, sends and saves. Of the well-kept libraries, puremagic takes AVIF and M4A for
MP4 and does not know GLB, and filetype knows no JPEG XL, SVG or GLB and takes 3GP and CR3 for MP4; each would need most
of this table beside it. Signatures are those of the formats' own specifications.
"""

from __future__ import annotations

import mimetypes
import re

__all__ = ("HEAD_BYTES", "UNKNOWN", "extension_of", "media_type_of")

UNKNOWN = "application/octet-stream"
HEAD_BYTES = 4096
"""How much of a file is looked at."""

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"\xff\x0a", "image/jxl"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"glTF", "model/gltf-binary"),
    (0, b"ply\n", "model/ply"),
    (0, b"ply\r", "model/ply"),
    (0, b"%PDF-", "application/pdf"),
)

_CONTAINERS = {
    (b"RIFF", b"WEBP"): "image/webp",
    (b"RIFF", b"WAVE"): "audio/wav",
    (b"RF64", b"WAVE"): "audio/wav",
    (b"RIFF", b"AVI "): "video/x-msvideo",
    (b"FORM", b"AIFF"): "audio/aiff",
    (b"FORM", b"AIFC"): "audio/aiff",
}
"""By the first four bytes, and the four after the length."""

_BRANDS = (
    (b"avif", "image/avif"),
    (b"avis", "image/avif"),
    (b"heic", "image/heic"),
    (b"heix", "image/heic"),
    (b"hevc", "image/heic"),
    (b"heim", "image/heic"),
    (b"heis", "image/heic"),
    (b"mif1", "image/heif"),
    (b"msf1", "image/heif"),
    (b"crx ", "image/x-canon-cr3"),
    (b"M4A ", "audio/mp4"),
    (b"M4B ", "audio/mp4"),
    (b"qt  ", "video/quicktime"),
    (b"3g2", "video/3gpp2"),
    (b"3gp", "video/3gpp"),
    (b"3ge", "video/3gpp"),
    (b"3gs", "video/3gpp"),
)
"""Brands of the ISO base media file format (ISO/IEC 14496-12, and the MP4 registration authority)."""

_SVG = re.compile(
    rb"(?:\s++|<\?xml[^>]*+>|<!--.*?-->|<!DOCTYPE\s+svg[^>\[]*+(?:\[[^\]]*+\])?\s*+>)*+<svg[\s>/]",
    re.DOTALL | re.IGNORECASE,
)

_EXTENSIONS = {
    "image/jpeg": ".jpg",
    "image/tiff": ".tiff",
    "image/jxl": ".jxl",
    "image/avif": ".avif",
    "image/heic": ".heic",
    "image/heif": ".heif",
    "image/webp": ".webp",
    "image/svg+xml": ".svg",
    "image/x-canon-cr3": ".cr3",
    "audio/mpeg": ".mp3",
    "audio/mp4": ".m4a",
    "audio/aac": ".aac",
    "audio/aiff": ".aiff",
    "audio/wav": ".wav",
    "audio/flac": ".flac",
    "audio/ogg": ".ogg",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi",
    "video/3gpp": ".3gp",
    "video/3gpp2": ".3g2",
    "model/gltf-binary": ".glb",
    "model/ply": ".ply",
    UNKNOWN: ".bin",
}
_TYPES = {extension: media_type for media_type, extension in _EXTENSIONS.items() if media_type != UNKNOWN} | {
    ".tif": "image/tiff",
    ".jpeg": "image/jpeg",
    ".aif": "audio/aiff",
    ".gltf": "model/gltf+json",
    ".obj": "model/obj",
    ".stl": "model/stl",
    ".m4v": "video/mp4",
}


def media_type_of(head: bytes, name: str = "") -> str:
    """Tell the media type of content that starts with `head`, else of a file of that name, else `UNKNOWN`."""
    head = head[:HEAD_BYTES]
    found = _by_content(head)
    if found is not None:
        return found
    extension = name[name.rfind(".") :].lower() if "." in name else ""
    return _TYPES.get(extension) or mimetypes.guess_type(f"x{extension}")[0] or UNKNOWN


def extension_of(head: bytes) -> str:
    """The usual file extension, with its dot, for content that starts with `head`."""
    media_type = media_type_of(head)
    return _EXTENSIONS.get(media_type) or mimetypes.guess_extension(media_type) or ".bin"


def _by_content(head: bytes) -> str | None:
    for offset, signature, media_type in _SIGNATURES:
        if head.startswith(signature, offset):
            return media_type
    if head[4:8] == b"ftyp":
        return _by_brands(head)
    if head.startswith(b"\x1aE\xdf\xa3"):  # EBML: Matroska, or its subset WebM
        return "video/x-matroska" if b"matroska" in head[:64] else "video/webm"
    if len(head) >= 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: sync word, layer 0
        return "audio/aac"
    if (
        len(head) >= 3
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x06
        and head[1] != 0xFE
        and head[2] & 0xF0 != 0xF0
    ):
        return "audio/mpeg"  # a frame of MPEG audio: sync word, a layer, a bit rate; no byte order mark of UTF-16
    if _SVG.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "image/svg+xml"
    return _CONTAINERS.get((head[:4], head[8:12]))


def _by_brands(head: bytes) -> str:
    """The major brand decides; a general one leaves it to the compatible brands."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    general = (b"mif1", b"msf1", b"isom", b"iso2", b"mp41", b"mp42")
    specific = [brand for brand in brands if brand not in general]
    major = brands[0]
    for brand in [*specific, major] if major in (b"mif1", b"msf1") else [major]:
        for prefix, media_type in _BRANDS:
            if brand.startswith(prefix):
                return media_type
    return "video/mp4"
