"""How settings combine: defaults < groups in the host's order < the host itself.

Mappings merge deeply, lists and scalars replace, ``null`` removes. A secret (``{env: ..}``,
``{file: ..}`` or ``{command: ..}``) replaces as a whole, or an override by another kind would name
two sources. Merging works on nodes, so every value keeps the place where it was written, and
subtrees that an override does not touch are shared, not copied: two hosts with the same settings
hold the very same nodes. So nodes must not be changed after a merge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from schemas.document import Mark, Node

SECRET_KEYS = frozenset({"env", "file", "command"})


def empty_mapping(mark: Mark) -> Node:
    """A mapping without entries, for a section that was left out."""
    return Node("mapping", {}, mark)


def merge(base: Node, over: Node) -> Node:
    """``over`` laid on ``base``, which holds no null; neither does the result."""
    if over.kind != "mapping" or base.kind != "mapping" or is_secret(over) or is_secret(base):
        return without_nulls(over)
    if not over.value:
        return base
    entries, keys = dict(base.value), dict(base.keys)
    for key, child in over.value.items():
        below = entries.get(key)
        if child.kind == "null":
            entries.pop(key, None)
            keys.pop(key, None)
            continue
        entries[key] = without_nulls(child) if below is None else merge(below, child)
        keys[key] = over.keys[key]
    return _mapping(entries, keys, over.mark)


_SOURCES = (("ref", "repository"), ("archive", "commit", "build_number"))


def own_build(server: Node, host: Node) -> Node | None:
    """A server's own ``llama_cpp`` over its host's; None for a server that has none of its own.

    A source is one thing: a server that names the other kind (``ref`` or ``archive``) drops the
    host's, for a null in the server's section is gone once groups are merged.
    """
    own, shared = server.get("llama_cpp"), host.get("llama_cpp")
    if own is None or own.kind != "mapping":
        return None
    if shared is None or shared.kind != "mapping":
        return own
    for mine, other in (_SOURCES, _SOURCES[::-1]):
        if mine[0] in own.value:
            kept = {key: child for key, child in shared.value.items() if key not in other}
            shared = _mapping(kept, {key: shared.keys[key] for key in kept}, shared.mark)
    return merge(shared, own)


def own_toolkit(server: Node, host: Node) -> Node | None:
    """A server's own ``cuda`` over its host's; None for a server that has none of its own."""
    own, shared = server.get("cuda"), host.get("cuda")
    if own is None or own.kind != "mapping":
        return None
    return own if shared is None else merge(shared, own)


def without_nulls(node: Node) -> Node:
    """``node`` without the entries that are null; itself when there are none."""
    if not node.nulls or node.kind != "mapping":
        return node
    entries = {k: without_nulls(v) for k, v in node.value.items() if v.kind != "null"}
    return _mapping(entries, {key: node.keys[key] for key in entries}, node.mark)


def is_secret(node: Node) -> bool:
    """Whether this is a reference to a secret: one of the three keys, with a plain value.

    A server or provider that is *named* ``env`` has a mapping there and is none.
    """
    if node.kind != "mapping" or len(node.value) != 1:
        return False
    ((key, child),) = node.value.items()
    return key in SECRET_KEYS and child.kind in ("string", "sequence")


def group_order(names: Sequence[str], includes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Groups in the order of merging: included ones before the one that includes them.

    A group that is reached twice counts once, at its first place. Unknown groups are left out, and
    a cycle is cut where it closes (:func:`find_cycles` reports it).
    """
    order: dict[str, None] = {}
    # An explicit stack of (group, its includes have been visited): chains may be long.
    stack = [(name, False) for name in reversed(names)]
    opened: set[str] = set()
    while stack:
        name, ready = stack.pop()
        if ready:
            order.setdefault(name)
        elif name in includes and name not in opened:
            opened.add(name)
            stack.append((name, True))
            stack.extend((inner, False) for inner in reversed(includes[name]))
    return tuple(order)


def find_cycles(includes: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Each cycle of groups once, as the names along it; the last includes the first."""
    done: set[str] = set()
    for start in includes:
        trail: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = []
        if start not in done:
            stack.append((start, iter(includes[start])))
            trail.append(start)
        while stack:
            name, inner = stack[-1]
            following = next(inner, None)
            if following is None:
                done.add(name)
                stack.pop()
                trail.pop()
            elif following in trail:
                yield tuple(trail[trail.index(following) :])
            elif following in includes and following not in done:
                stack.append((following, iter(includes[following])))
                trail.append(following)


def _mapping(entries: dict[str, Node], keys: dict[str, Mark], mark: Mark) -> Node:
    node = Node("mapping", entries, mark)
    node.keys = keys
    return node
