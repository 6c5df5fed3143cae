"""The routes of egress: which headers are set on requests to which host.

Read by the addon at its start and at each SIGHUP, and by `egress-check`: one loader, so that what the checker passes
is what the addon takes. No error ever holds a value of the file: values are credentials, and errors are logged.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from urllib.parse import unquote

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode, YAMLError

MAX_BYTES = 1024 * 1024

_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What frames a message or says where it goes isn't a credential, and setting it would break or redirect the request.
_FRAMING = {"connection", "content-length", "host", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}


class RoutesError(Exception):
    """Why a routes file is refused, and on which line. Holds no value of the file."""


@dataclass(frozen=True)
class Route:
    host: str  # lower case; "*.example.com" is example.com and every name below it
    scheme: str
    path: str  # a prefix of whole segments; "/" is every path
    headers: tuple[tuple[str, str], ...]

    def matches(self, scheme: str, host: str, path: str) -> bool:
        if scheme != self.scheme:
            return False
        host = host.lower().rstrip(".")
        base = self.host.removeprefix("*.")
        if host != base and not (base != self.host and host.endswith("." + base)):
            return False
        if self.path == "/":
            return True
        plain = unquote(path.partition("?")[0])
        # A server that resolves "/v1/../admin" must not get there with what was meant for /v1.
        if {".", ".."} & set(plain.replace("\\", "/").split("/")):
            return False
        prefix = self.path.rstrip("/")
        return plain == prefix or plain.startswith(prefix + "/")


def load(path: str) -> tuple[Route, ...]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RoutesError(f"can't be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise RoutesError(f"longer than {MAX_BYTES} bytes")
    try:
        root = YAML(typ="safe").compose(data.decode())
    except UnicodeDecodeError:
        raise RoutesError("not UTF-8") from None
    except (YAMLError, RecursionError) as error:
        # The parser's own text quotes the file.
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise RoutesError(f"{where}not valid YAML") from None
    if root is None:
        raise RoutesError("empty; for no routes at all write `routes: []`")
    top = _mapping(root, "the file", allowed=("routes",), required=("routes",))
    routes = top["routes"]
    if not isinstance(routes, SequenceNode):
        raise _error(routes, "`routes` must be a list")
    return tuple(_route(item) for item in routes.value)


def _route(node: Node) -> Route:
    keys = _mapping(node, "a route", allowed=("host", "scheme", "path", "headers"), required=("host", "headers"))
    host = _string(keys["host"], "`host`").lower()
    if not _HOST.fullmatch(host):
        raise _error(keys["host"], "`host` must be a host name, or `*.` and one, without scheme, port or path")
    scheme = _string(keys["scheme"], "`scheme`") if "scheme" in keys else "https"
    if scheme not in ("http", "https"):
        raise _error(keys["scheme"], "`scheme` must be http or https")
    path = _string(keys["path"], "`path`") if "path" in keys else "/"
    if not path.startswith("/") or "?" in path:
        raise _error(keys["path"], "`path` must begin with / and have no query")
    if not isinstance(keys["headers"], MappingNode) or not keys["headers"].value:
        raise _error(keys["headers"], "`headers` must map at least one header's name to its value")
    headers: dict[str, tuple[str, str]] = {}
    for name_node, value_node in keys["headers"].value:
        name = _string(name_node, "a header's name")
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _FRAMING:
            raise _error(name_node, "a header's name is malformed, or one that only the client may set")
        if name.lower() in headers:
            raise _error(name_node, "a header is set twice in one route")
        value = _string(value_node, "a header's value")
        if not value or not value.isascii() or not value.isprintable():
            raise _error(value_node, "a header's value must be printable ASCII, and not empty")
        headers[name.lower()] = (name, value)
    return Route(host, scheme, path, tuple(headers.values()))


def _mapping(node: Node, what: str, allowed: tuple[str, ...], required: tuple[str, ...]) -> dict[str, Node]:
    if not isinstance(node, MappingNode):
        raise _error(node, f"{what} must be a mapping")
    found: dict[str, Node] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode) or key.value not in allowed:
            raise _error(key, f"a key of {what} must be one of: {', '.join(allowed)}")
        if key.value in found:
            raise _error(key, f"`{key.value}` stands twice")
        found[key.value] = value
    for key in required:
        if key not in found:
            raise _error(node, f"{what} lacks `{key}`")
    return found


def _string(node: Node, what: str) -> str:
    if not isinstance(node, ScalarNode) or not str(node.tag).endswith(":str"):
        raise _error(node, f"{what} must be a string (quote it)")
    return str(node.value)


def _error(node: Node, text: str) -> RoutesError:
    return RoutesError(f"line {node.start_mark.line + 1}: {text}")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: egress-check FILE\nSays whether egress would take FILE as its routes: exit 0 or 1.", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        count = len(load(arguments[0]))
    except RoutesError as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    print(f"{arguments[0]}: routes: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
