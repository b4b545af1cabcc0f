"""Sentences for users: what pydantic says of a block, as one sentence with the key, the value and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError


def sentence(error: ValidationError, prefix: str, kind: Any) -> str:
    """One sentence for the first problem of a pydantic error: the key, the value, what is allowed."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"] if not _is_tag(str(part), first["loc"], kind)]
    key = ".".join([*([prefix] if prefix else []), *location]) or "params.yaml"
    more = len(error.errors()) - 1
    also = f" ({more} more problem{'s' if more > 1 else ''} after this one)" if more else ""
    context = first.get("ctx", {})
    value = _short(first["input"])
    match first["type"]:
        case "value_error":
            message = str(context["error"])
            return message + also if re.match(r"[a-z_]+\.", message) else f"{key}: {message}{also}"
        case "extra_forbidden":
            return f"{unknown_key(key, fields_at(kind, first['loc'][:-1]))}{also}"
        case "missing":
            return f"{key} is missing; it is required{also}"
        case "union_tag_invalid":
            allowed_tags = re.findall(r"'([^']*)'", str(context["expected_tags"]))
            guess = _guess(str(context["tag"]), allowed_tags)
            return f"{key}.kind is {context['tag']!r}{guess}; allowed: {listed(allowed_tags)}{also}"
        case "union_tag_not_found":
            return f"{key}.kind is missing; it is required{also}"
        case "literal_error":
            allowed_values = re.findall(r"'([^']*)'", str(context["expected"]))
            return f"{key} is {value}{_guess(str(first['input']), allowed_values)}; allowed: {context['expected']}{also}"
        case "string_pattern_mismatch":
            return f"{key} is {value}; allowed are names of lower-case letters, digits and hyphens{also}"
        case "string_too_long":
            return f"{key} has {len(str(first['input']))} characters; allowed: {context['max_length']} at most{also}"
        case _:
            rule = re.sub(r"^Input should be ", "", first["msg"])
            return f"{key} is {value}; allowed: {rule[:1].lower() + rule[1:]}{also}"


def unknown(key: str, value: str, allowed: list[str]) -> ValueError:
    return ValueError(f"{key} is {value!r}{_guess(value, allowed)}; allowed: {listed(allowed)}")


def unknown_key(key: str, allowed: list[str]) -> ValueError:
    return ValueError(f"{key} is not a known key{_guess(key.split('.')[-1], allowed)}; allowed here: {listed(allowed)}")


def _guess(value: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(value, allowed, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def listed(values: Iterable[object]) -> str:
    found = list(values)
    numbers = [value for value in found if isinstance(value, int)]
    return ", ".join(map(str, sorted(numbers)) if len(numbers) == len(found) else sorted(map(str, found)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_tag(part: str, location: tuple[Any, ...], kind: Any) -> bool:
    """Pydantic puts the tag of a discriminated union into the location; a user's key does not have it."""
    del location
    return part in _tags(kind)


def _tags(kind: Any) -> set[str]:
    tags = set(re.findall(r"'kind', ?'([a-z0-9-]+)'", repr(kind)))
    try:
        schema = TypeAdapter(kind).json_schema()
    except Exception:  # a kind without a JSON schema has no tags to strip
        return tags
    for definition in [schema, *schema.get("$defs", {}).values()]:
        const = definition.get("properties", {}).get("kind", {}).get("const")
        if const is not None:
            tags.add(const)
    return tags


def fields_at(kind: Any, location: tuple[Any, ...]) -> list[str]:
    """Names of the keys that are allowed at a location of the type `kind`."""
    schema = TypeAdapter(kind).json_schema(by_alias=True)
    definitions = schema.get("$defs", {})

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
        return node

    def unwrapped(node: dict[str, Any]) -> dict[str, Any]:
        """A block that may be null is the block."""
        blocks = [found for option in node.get("anyOf", []) if "properties" in (found := resolve(option))]
        return blocks[0] if len(blocks) == 1 else node

    node = unwrapped(resolve(schema))
    for part in location:
        options = node.get("oneOf") or node.get("anyOf") or []
        tagged = [resolve(option) for option in options]
        match = [option for option in tagged if option.get("properties", {}).get("kind", {}).get("const") == part]
        if match:
            node = match[0]
        elif str(part) in node.get("properties", {}):
            node = resolve(node["properties"][str(part)])
        elif isinstance(node.get("additionalProperties"), dict):
            node = resolve(node["additionalProperties"])
        elif "patternProperties" in node:
            node = resolve(next(iter(node["patternProperties"].values())))
        node = unwrapped(node)
    return list(node.get("properties", {}))
