"""A page that people read, made of the description of the service: plain HTML that needs nothing else."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_METHODS = ("get", "post", "delete")


def docs_page(description: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI description."""
    info, schemas = description["info"], description["components"]["schemas"]
    routes = [
        (method, path, item[method])
        for path, item in description["paths"].items()
        for method in _METHODS
        if method in item
    ]
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>kdrift: requests</title>"
        '<meta name=viewport content="width=device-width"><link rel=stylesheet href=/docs.css></head><body><main>',
        f"<h1>{_text(info['title'])} {_text(info['version'])}: requests</h1><p>{_text(info['description'])}</p>",
        "<p>Keys are sent as <code>Authorization: Bearer KEY</code>. Errors are problem details: a status and a"
        " sentence. The same as data: <a href=/openapi.json>openapi.json</a>.</p><nav><ul>",
        *(f"<li><a href=#{_anchor(m, p)}><code>{m.upper()} {_text(p)}</code></a></li>" for m, p, _ in routes),
        "</ul></nav>",
        *(part for method, path, route in routes for part in _route(method, path, route)),
        "<h2>What they hold</h2>",
        *(part for name, schema in sorted(schemas.items()) for part in _schema(name, schema)),
        "</main></body></html>",
    ]
    return "\n".join(parts)


def _route(method: str, path: str, route: Mapping[str, Any]) -> Iterator[str]:
    yield f"<section id={_anchor(method, path)}><h2><code>{method.upper()} {_text(path)}</code></h2>"
    yield f"<p>{_text(route.get('description') or route.get('summary', ''))}</p>"
    if route.get("parameters"):
        yield "<table><tr><th>option<th>where<th>type<th>what</tr>"
        for each in route["parameters"]:
            schema = each.get("schema") or next(iter(each["content"].values()))["schema"]
            yield f"<tr><td><code>{_text(each['name'])}</code><td>{each['in']}<td>{_type(schema)}"
            yield f"<td>{_text(each.get('description', ''))}</tr>"
        yield "</table>"
    for kind, body in route.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body <code>{_text(kind)}</code>: {_type(body['schema'])}</p>"
    yield "<table><tr><th>status<th>what<th>answer</tr>"
    for status, answer in route["responses"].items():
        held = ", ".join(
            f"<code>{_text(kind)}</code> {_type(c.get('schema', {}))}" for kind, c in answer.get("content", {}).items()
        )
        yield f"<tr><td>{status}<td>{_text(answer['description'])}<td>{held}</tr>"
    yield "</table></section>"


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"<section id=schema-{_text(name)}><h3>{_text(name)}</h3><p>{_text(schema.get('description', ''))}</p>"
    if schema.get("properties"):
        yield "<table><tr><th>field<th>type<th>default<th>what</tr>"
        for field, inner in schema["properties"].items():
            default = _text(json.dumps(inner["default"])) if "default" in inner else ""
            yield f"<tr><td><code>{_text(field)}</code><td>{_type(inner)}<td>{default}"
            yield f"<td>{_text(inner.get('description', ''))}</tr>"
        yield "</table>"
    yield "</section>"


def _type(schema: Mapping[str, Any]) -> str:
    """Return a type in words."""
    if "$ref" in schema:
        name = _text(schema["$ref"].rpartition("/")[2])
        return f"<a href=#schema-{name}>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "enum" in schema:
        return " or ".join(f"<code>{_text(str(each))}</code>" for each in schema["enum"])
    if "const" in schema:
        return f"<code>{_text(str(schema['const']))}</code>"
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_type(schema['items'])}"
    return _text(schema.get("format") or schema.get("type", "any"))


def _anchor(method: str, path: str) -> str:
    return _text(f"{method}{re.sub(r'[^a-z0-9]+', '-', path.lower())}")


def _text(value: str) -> str:
    """Return text as HTML, what stands in backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(value))
