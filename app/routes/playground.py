"""GET /: the playground, one page for people; its files are read once, from app/playground."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from app.errors import Kind, Problem, echo

FOLDER = Path(__file__).parents[1] / "playground"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
# The page loads nothing from elsewhere, runs nothing that is written into it, and stands in no other page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
GUARDS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class File:
    """A file of the page as it is sent."""

    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> File:
    content = path.read_bytes()
    return File(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


FILES = {path.name: _read(path) for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}
router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """Give the page."""
    return _answer(request, FILES[INDEX])


@router.api_route("/playground/{name}", methods=["GET", "HEAD"])
async def part(request: Request, name: str) -> Response:
    """Give what the page loads."""
    if name not in FILES or name == INDEX:
        raise Problem(Kind.NOT_FOUND, f"the playground has no file {echo(name)}", value=name)
    return _answer(request, FILES[name])


def _answer(request: Request, file: File) -> Response:
    # Kept by browsers, but asked about each time: a page of one version would not suit parts of another.
    headers = {**GUARDS, "ETag": file.etag, "Cache-Control": "no-cache"}
    known = request.headers.get("if-none-match", "")
    if file.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
