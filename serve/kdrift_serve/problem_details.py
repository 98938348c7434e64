"""What every error says (RFC 9457), for the application and for Serve's proxy before it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"
UNEXPECTED = "the service made an error; its log has the details"
NOTHING_HERE = "there is nothing at this address"


def details(status: int, detail: str) -> dict[str, Any]:
    """Return the content of an error: a status and a sentence."""
    return {"type": "about:blank", "title": _title(status), "status": status, "detail": detail}


def _title(status: int) -> str:
    """Return the name of a status; 460 is that of tus alone."""
    return "Checksum Mismatch" if status == 460 else HTTPStatus(status).phrase
