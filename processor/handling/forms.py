"""A form as a browser sends it, for trying handlers out."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from processor.handling.body import MULTIPART, URLENCODED, File


def form_body(fields: Mapping[str, str | File]) -> tuple[bytes, str]:
    """A form as a browser sends it, and its Content-Type: multipart where it has files, else URL-encoded."""
    if not any(isinstance(value, File) for value in fields.values()):
        return urlencode(fields).encode(), URLENCODED
    return _multipart_body(fields, uuid4().hex)


def _multipart_body(fields: Mapping[str, str | File], boundary: str) -> tuple[bytes, str]:
    from werkzeug.datastructures import Headers  # noqa: PLC0415 - paid for by those who ask
    from werkzeug.sansio import multipart  # noqa: PLC0415

    encoder = multipart.MultipartEncoder(boundary.encode())
    pieces = [encoder.send_event(multipart.Preamble(b""))]
    for name, value in fields.items():
        if isinstance(value, File):
            headers = Headers({"Content-Type": value.content_type})
            part: Any = multipart.File(name=name, filename=value.name, headers=headers)
        else:
            part = multipart.Field(name=name, headers=Headers())
        data = value.body if isinstance(value, File) else value.encode()
        pieces += [encoder.send_event(part), encoder.send_event(multipart.Data(data, more_data=False))]
    pieces.append(encoder.send_event(multipart.Epilogue(b"")))
    return b"".join(pieces), f"{MULTIPART}; boundary={boundary}"
