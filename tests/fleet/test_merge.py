"""Defaults < groups in the host's order < host, and every value knows where it was written."""

from __future__ import annotations

import pytest
from fleet_support import BUILD, EXAMPLES, fleet_from
from hypothesis import given
from hypothesis import strategies as st

from inventories.fleet import (
    Fleet,
    default_provider,
    hub_endpoint,
    load_fleet,
    opencode_providers,
)
from inventories.merge import group_order, merge, without_nulls
from schemas.document import Node, parse_document


def node_of(text: str) -> Node:
    root = parse_document(text.encode(), "x").root
    assert root is not None
    return root


def merged(base: str, over: str) -> object:
    return merge(without_nulls(node_of(base)), node_of(over)).plain()


def test_mappings_merge_deeply() -> None:
    assert merged("{a: {b: 1, c: 2}}", "{a: {c: 3, d: 4}}") == {"a": {"b": 1, "c": 3, "d": 4}}


def test_lists_and_scalars_replace() -> None:
    assert merged("{a: [1, 2], b: 1}", "{a: [3], b: x}") == {"a": [3], "b": "x"}


def test_null_removes() -> None:
    assert merged("{a: {b: 1, c: 2}, d: 1}", "{a: {b: null}, d: ~}") == {"a": {"c": 2}}


def test_null_in_the_lowest_layer_leaves_nothing_behind() -> None:
    assert merged("{a: null}", "{b: {c: null, d: 1}}") == {"b": {"d": 1}}


def test_a_secret_of_another_kind_replaces_the_whole_reference() -> None:
    assert merged("{key: {env: A}}", "{key: {file: b}}") == {"key": {"file": "b"}}


def test_a_server_that_is_named_like_a_kind_of_secret_merges_as_any_other() -> None:
    assert merged("{servers: {env: {port: 1}}}", "{servers: {file: {port: 2}}}") == {
        "servers": {"env": {"port": 1}, "file": {"port": 2}}
    }


plain = st.recursive(
    st.integers(0, 3) | st.none(),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def reference_merge(base: object, over: object) -> object:
    """The rule again, in the plainest words."""
    if not isinstance(over, dict):
        return over
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = reference_merge(result.get(key), value)
    return result


def as_node(value: object) -> Node:
    if not isinstance(value, dict):
        return Node("null" if value is None else "integer", value, (1, 1))
    node = Node("mapping", {key: as_node(child) for key, child in value.items()}, (1, 1))
    node.keys = dict.fromkeys(value, (1, 1))
    node.nulls = any(child.nulls for child in node.value.values())
    return node


@given(st.lists(st.dictionaries(st.sampled_from("abc"), plain, max_size=3), max_size=4))
def test_any_layers_merge_as_the_rule_says(layers: list[dict[str, object]]) -> None:
    found, expected = Node("mapping", {}, (1, 1)), {}
    for layer in layers:
        found = merge(found, as_node(layer))
        expected = reference_merge(expected, layer)
    assert found.plain() == expected


def test_included_groups_come_before_the_group_that_includes_them() -> None:
    includes = {"a": ["base"], "c": ["base"], "base": []}
    assert group_order(["a", "c"], includes) == ("base", "a", "c")


def test_a_long_chain_of_groups_is_followed_to_its_end() -> None:
    includes = {f"g{n}": [f"g{n + 1}"] for n in range(5000)} | {"g5000": []}
    assert len(group_order(["g0"], includes)) == 5001


LAYERS = (
    BUILD
    + """\
groups:
  base:
    servers: {coder: {model: glm, port: 1, parallel: 1}}
  first:
    groups: [base]
    servers: {coder: {port: 2, threads: 2}}
  second:
    servers: {coder: {port: 3}}
hosts:
  gpu-01:
    groups: [first, second]
    servers: {coder: {threads: null, context: 16384}}
  gpu-02: {groups: [second, first]}
  gpu-03:
"""
)


@pytest.fixture(scope="module")
def layers() -> Fleet:
    return fleet_from(LAYERS)


def test_later_groups_override_earlier_ones_and_the_host_all(layers: Fleet) -> None:
    coder = layers.hosts["gpu-01"].values["servers"]["coder"]
    assert (coder["port"], coder["parallel"], coder["context"]) == (3, 1, 16384)
    assert layers.hosts["gpu-02"].values["servers"]["coder"]["port"] == 2


def test_a_removed_value_falls_back_to_the_built_in_default(layers: Fleet) -> None:
    assert layers.hosts["gpu-01"].values["servers"]["coder"]["threads"] == -1
    assert layers.hosts["gpu-02"].values["servers"]["coder"]["threads"] == 2


def test_every_value_knows_the_layer_that_wrote_it(layers: Fleet) -> None:
    lines = LAYERS.splitlines()
    for key, written in (("port", "port: 3"), ("parallel", "parallel: 1"), ("model", "model: glm")):
        origin = layers.hosts["gpu-01"].origins[("servers", "coder", key)]
        value = written.split()[1]
        assert written in lines[origin.line - 1]
        assert lines[origin.line - 1][origin.column - 1 :].startswith(value)


def test_a_built_in_default_has_no_origin(layers: Fleet) -> None:
    assert ("servers", "coder", "threads") not in layers.hosts["gpu-01"].origins
    assert ("servers", "coder", "jinja") not in layers.hosts["gpu-01"].origins


def test_a_host_without_ssh_goes_by_its_own_name(layers: Fleet) -> None:
    assert layers.hosts["gpu-03"].values["ssh"]["hostname"] == "gpu-03"


def test_groups_name_the_hosts_of_the_groups_that_include_them(layers: Fleet) -> None:
    assert layers.groups == {
        "base": ("gpu-01", "gpu-02"),
        "first": ("gpu-01", "gpu-02"),
        "second": ("gpu-01", "gpu-02"),
    }
    assert layers.hosts["gpu-01"].groups == ("base", "first", "second")


def test_a_null_section_is_gone() -> None:
    workshop = load_fleet(EXAMPLES[0]).hosts["workshop"].values
    assert "cuda" not in workshop
    assert "llama_cpp" not in workshop
    assert workshop["servers"] == {}


def test_cmake_values_and_gpus_become_what_their_consumers_take() -> None:
    fleet = fleet_from(
        BUILD + "hosts:\n  gpu-01:\n    llama_cpp: {cmake: {GGML_LTO: true, N: 3, OFF_: false}}\n"
        "    servers: {coder: {model: glm, port: 1, gpus: [0, GPU-ab]}}\n"
    )
    values = fleet.hosts["gpu-01"].values
    assert values["llama_cpp"]["cmake"] == {"GGML_LTO": "ON", "N": "3", "OFF_": "OFF"}
    assert values["servers"]["coder"]["gpus"] == ["0", "GPU-ab"]


def test_positions_lead_to_any_path_of_the_file(layers: Fleet) -> None:
    position = layers.positions[("groups", "second", "servers", "coder", "port")]
    assert "port: 3" in LAYERS.splitlines()[position.line - 1]
    assert LAYERS.splitlines()[layers.positions[("hosts", "gpu-02")].line - 1].startswith(
        "  gpu-02"
    )


def providers(opencode: str, servers: str = "coder: {model: glm, port: 1}") -> Fleet:
    return fleet_from(
        BUILD
        + f"hosts:\n  a: {{servers: {{{servers}}}, opencode: {opencode}}}\n"
        + "  b: {servers: {big: {model: glm, port: 1, host: 0.0.0.0, insecure: true}}}\n"
    )


def test_the_only_server_is_the_default_provider() -> None:
    fleet = providers("{}")
    assert opencode_providers(fleet, "a") == {"llama.cpp": ("a", "coder")}
    assert default_provider(fleet, "a") == "llama.cpp"


def test_a_default_elsewhere_is_the_provider() -> None:
    assert opencode_providers(providers("{default: b/big}"), "a") == {"llama.cpp": ("b", "big")}


def test_the_default_among_written_providers_is_found_by_its_server() -> None:
    fleet = providers("{default: coder, providers: {x: {server: b/big}, y: {server: a/coder}}}")
    assert opencode_providers(fleet, "a") == {"x": ("b", "big"), "y": ("a", "coder")}
    assert default_provider(fleet, "a") == "y"


def test_the_default_may_be_a_providers_id() -> None:
    fleet = providers("{default: x, providers: {x: {server: b/big}, y: {server: coder}}}")
    assert default_provider(fleet, "a") == "x"


def test_a_default_that_no_provider_has_gets_a_provider_of_its_own() -> None:
    fleet = providers("{default: coder, providers: {llama.cpp: {server: b/big}}}")
    assert opencode_providers(fleet, "a") == {
        "llama.cpp": ("b", "big"),
        "llama.cpp-2": ("a", "coder"),
    }
    assert default_provider(fleet, "a") == "llama.cpp-2"


def test_a_host_without_opencode_has_no_provider() -> None:
    fleet = providers("{}")
    assert opencode_providers(fleet, "b") == {}
    assert default_provider(fleet, "b") is None


def test_the_hub_is_the_models_then_the_fleets_then_the_environments() -> None:
    hosts = "hosts: {a: {}}\n"
    own = "{hub: {repo: a/b, quant: Q4, endpoint: https://one.example/}}"
    fleet = fleet_from(
        "version: 1\nhub: {endpoint: https://two.example}\n"
        f"models: {{m: {own}, n: {{hub: {{repo: a/b, quant: Q4}}}}}}\n{hosts}"
    )
    environ = {"HF_ENDPOINT": "https://three.example"}
    assert hub_endpoint(fleet, "m", environ) == "https://one.example"
    assert hub_endpoint(fleet, "n", environ) == "https://two.example"
    bare = fleet_from(f"version: 1\nmodels: {{n: {{hub: {{repo: a/b, quant: Q4}}}}}}\n{hosts}")
    assert hub_endpoint(bare, "n", environ) == "https://three.example"
    assert hub_endpoint(bare, "n", {}) == "https://huggingface.co"
