"""Domains as an agent proposes them, and whether pipelock's allowlist holds them."""

from __future__ import annotations

import re

import yaml

MAX_BYTES = 1024 * 1024

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
# A host name, or a wildcard below at least two labels: nobody proposes "*.com" in earnest.
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*|\*(\.{_LABEL}){{2,}}")


def normalized(domain: str) -> str | None:
    """The domain in lower case without a final dot; None if it may not be proposed."""
    domain = domain.lower().removesuffix(".")
    if len(domain) > 253 or not _DOMAIN.fullmatch(domain):
        return None
    return domain


def holds(entries: list[str], domain: str) -> bool:
    """As pipelock matches: "*.example.com" is example.com too, and every name below it."""
    for entry in entries:
        if entry == domain:
            return True
        if entry.startswith("*."):
            base = entry[2:]
            name = domain.removeprefix("*.")
            if name == base or name.endswith("." + base):
                return True
    return False


def read(path: str) -> list[str]:
    """api_allowlist of pipelock's file. Raises OSError or ValueError; neither text quotes the file."""
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES} bytes")
    try:
        root = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise ValueError("not valid YAML") from None
    entries = root.get("api_allowlist") if isinstance(root, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list api_allowlist")
    return [entry.lower().removesuffix(".") for entry in entries if isinstance(entry, str)]
