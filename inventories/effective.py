"""A merged section as plain data, with the schema's defaults filled in.

The ``default`` annotations of ``schemas/fleet.schema.json`` are the only source of defaults. Plain
data is built once for each node: hosts that share a section share its values, too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from inventories.merge import own_build, own_toolkit
from schemas.document import Node
from schemas.validate import load_schema, resolve

Build = Callable[[Node], Any]


class Filler:
    """Turns nodes into values along one schema. Keep it no longer than the nodes it has seen."""

    def __init__(self, schema_name: str = "fleet.schema.json") -> None:
        self._root = load_schema(schema_name)
        self._builders: dict[str, Build] = {}
        self._seen: dict[tuple[str, int], tuple[Node, Any]] = {}

    def fill(self, node: Node, definition: str) -> Any:
        """``node`` as plain data, with the defaults of ``$defs/<definition>``."""
        key = (definition, id(node))
        seen = self._seen.get(key)
        if seen is None:
            if definition not in self._builders:
                self._builders[definition] = self._builder(self._root["$defs"][definition])
            seen = self._seen[key] = (node, self._builders[definition](node))
        return seen[1]

    def _builder(self, schema: Mapping[str, Any]) -> Build:
        schema = resolve(schema, self._root)
        properties: Mapping[str, Any] = schema.get("properties", {})
        known = {name: self._builder(sub) for name, sub in properties.items()}
        defaults = {
            name: resolved["default"]
            for name, resolved in ((n, resolve(s, self._root)) for n, s in properties.items())
            if "default" in resolved
        }
        further = schema.get("additionalProperties")
        extra = self._builder(further) if isinstance(further, Mapping) else None

        def build(node: Node) -> Any:
            if node.kind != "mapping":
                return node.plain()
            values = {}
            for name, rule in known.items():
                child = node.value.get(name)
                if child is not None:
                    values[name] = rule(child)
                elif name in defaults:
                    default = copy.copy(defaults[name])
                    values[name] = (
                        rule(Node("mapping", {}, node.mark)) if default == {} else default
                    )
            if extra is not None:
                values.update({name: extra(child) for name, child in node.value.items()})
            return values

        return build


def host_values(merged: Node, name: str, filler: Filler) -> dict[str, Any]:
    """The effective values of a host, sections in the order of the schema.

    ``ssh`` and ``servers`` are always there; the others only when the fleet file has them. CMake
    values are text (true is ``ON``), and GPUs are text or ``all``: what their consumers take.
    """
    values: dict[str, Any] = {}
    ssh = merged.get("ssh") or Node("mapping", {}, merged.mark)
    values["ssh"] = {"hostname": name, **filler.fill(ssh, "ssh")}
    gpus = merged.get("gpus")
    if gpus is not None:
        values["gpus"] = filler.fill(gpus, "gpus")
    for section, definition, tidy in (
        ("cuda", "cuda", _tidy_cuda),
        ("llama_cpp", "llamaCpp", _tidy_llama_cpp),
    ):
        node = merged.get(section)
        if node is not None:
            values[section] = tidy(filler.fill(node, definition))
    driver = merged.get("driver")
    if driver is not None:
        values["driver"] = filler.fill(driver, "driver")
        toolkit = merged.get("cuda")
        if toolkit is not None:
            # A managed driver comes from the repository that cuda names, whatever its provider.
            repository = filler.fill(toolkit, "cuda")["repository"]
            values["cuda"] = {**values["cuda"], "repository": repository}
    proxy = merged.get("proxy")
    if proxy is not None:
        values["proxy"] = filler.fill(proxy, "proxy")
    servers = merged.get("servers")
    values["servers"] = {
        server: _server(node, merged, filler)
        for server, node in (servers.value.items() if servers is not None else ())
    }
    opencode = merged.get("opencode")
    if opencode is not None:
        values["opencode"] = filler.fill(opencode, "opencode")
    clients = merged.get("clients")
    if clients is not None:
        values["clients"] = filler.fill(clients, "clients")
    controller = merged.get("controller")
    if controller is not None:
        values["controller"] = controller.value
    return values


def _tidy_cuda(cuda: dict[str, Any]) -> dict[str, Any]:
    """Only the vendor's repository needs the repository's defaults, and has a profile."""
    if cuda["provider"] == "nvidia-repo":
        return cuda
    return {key: value for key, value in cuda.items() if key not in ("repository", "profile")}


def _tidy_llama_cpp(build: dict[str, Any]) -> dict[str, Any]:
    """Only a ref needs a git repository; CMake values become text."""
    cmake = {name: _cmake_value(value) for name, value in build["cmake"].items()}
    kept = {k: v for k, v in build.items() if k != "repository" or "archive" not in build}
    return {**kept, "cmake": cmake}


def _cmake_value(value: str | bool | int) -> str:
    if isinstance(value, bool):
        return "ON" if value else "OFF"
    return str(value)


def _server(node: Node, host: Node, filler: Filler) -> dict[str, Any]:
    """A server's values; a build or toolkit of its own is whole, over the host's."""
    server = _tidy_server(filler.fill(node, "server"))
    build, toolkit = own_build(node, host), own_toolkit(node, host)
    if build is not None:
        server["llama_cpp"] = _tidy_llama_cpp(filler.fill(build, "llamaCpp"))
    if toolkit is not None:
        server["cuda"] = _tidy_cuda(filler.fill(toolkit, "cuda"))
    return server


def _tidy_server(server: dict[str, Any]) -> dict[str, Any]:
    gpus = server["gpus"]
    return {**server, "gpus": gpus if gpus == "all" else [str(gpu) for gpu in gpus]}
