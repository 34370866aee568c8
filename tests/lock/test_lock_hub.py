"""Models on a hub: which files are meant, and what is pinned of them."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

import pytest
from hub import Hub
from lock_support import FileServer, request, world

from inventories.lock import ModelPin
from inventories.pinning import PinError, World, resolve
from inventories.pinning.hub import HubFile, choose_files

REPO = "acme/Tiny-GGUF"
TOKEN = secrets.token_hex(12)


def pin(hub: Hub, world: World, **wanted: Any) -> ModelPin:
    mmproj = {"mmproj": wanted.pop("mmproj")} if "mmproj" in wanted else {}
    body = {"hub": {"repo": REPO, "endpoint": hub.url, **wanted}, **mmproj}
    found = resolve(request("models", body), world)
    assert isinstance(found, ModelPin)
    return found


def test_a_quant_is_pinned_to_commit_size_and_sha256(hub: Hub, tmp_path: Path) -> None:
    found = pin(hub, world(tmp_path), quant="q4_0")
    (file,) = found.files
    content = (tmp_path / "hub" / REPO / "Tiny-Q4_0.gguf").read_bytes()
    assert file.name == "Tiny-Q4_0.gguf"
    assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert file.url == f"{hub.url}/{REPO}/resolve/{found.revision}/Tiny-Q4_0.gguf"


def test_a_quant_is_a_word_of_its_own_and_the_exact_one_wins(hub: Hub, tmp_path: Path) -> None:
    assert pin(hub, world(tmp_path), quant="Q8_0").files[0].name == "Tiny-Q8_0.gguf"
    assert pin(hub, world(tmp_path), quant="UD-Q8_0").files[0].name == "Tiny-UD-Q8_0.gguf"


def test_shards_come_together_and_in_order(hub: Hub, tmp_path: Path) -> None:
    names = [file.name for file in pin(hub, world(tmp_path), quant="BF16").files]
    assert names == ["BF16/Tiny-BF16-00001-of-00002.gguf", "BF16/Tiny-BF16-00002-of-00002.gguf"]
    first = pin(hub, world(tmp_path), file="BF16/Tiny-BF16-00001-of-00002.gguf")
    assert [file.name for file in first.files] == names


def test_a_projector_goes_along_when_asked(hub: Hub, tmp_path: Path) -> None:
    found = pin(hub, world(tmp_path), quant="Q4_0", mmproj=True)
    assert [file.name for file in found.files] == ["Tiny-Q4_0.gguf", "mmproj-F16.gguf"]
    assert found.mmproj == "mmproj-F16.gguf"


def test_a_small_file_without_a_listed_sha256_is_read_for_it(hub: Hub, tmp_path: Path) -> None:
    (file,) = pin(hub, world(tmp_path), quant="TQ1_0").files
    assert file.sha256 == hashlib.sha256(b"GGUF").hexdigest()


def test_a_commit_stays_what_it_is(hub: Hub, tmp_path: Path) -> None:
    commit = pin(hub, world(tmp_path), quant="Q4_0").revision
    assert pin(hub, world(tmp_path), quant="Q4_0", revision=commit).revision == commit


def test_the_environment_names_the_hub_when_the_fleet_does_not(hub: Hub, tmp_path: Path) -> None:
    body = {"hub": {"repo": REPO, "quant": "Q4_0"}}
    found = resolve(request("models", body), world(tmp_path, HF_ENDPOINT=hub.url + "/"))
    assert isinstance(found, ModelPin)
    assert str(found.files[0].url).startswith(hub.url)


def test_no_password_of_an_address_comes_into_the_lock(hub: Hub, tmp_path: Path) -> None:
    body = {"hub": {"repo": REPO, "quant": "Q4_0"}}
    with_password = hub.url.replace("://", "://eva:hunter2@")
    with pytest.raises(PinError, match="leave that out of the address") as refused:
        resolve(request("models", body), world(tmp_path, HF_ENDPOINT=with_password))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"quant": "Q4_1"}, r"has no quant Q4_1; did you mean Q4_0\? \(there are: .*UD-Q8_0\)"),
        ({"quant": "Q4_0", "revision": "mian"}, "has no branch or tag mian; did you mean main"),
        ({"quant": "Q4_0", "revision": "0" * 40}, "not found"),
        ({"quant": "Q4_0", "repo": "acme/Nothing"}, r"not found \(HTTP 404\); check hub.repo"),
        ({"file": "Tiny-Q4_O.gguf"}, "did you mean Tiny-Q4_0.gguf"),
        ({}, "no quant is named, and it holds 6 models.*hub.file"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    hub: Hub, tmp_path: Path, wanted: dict[str, str], message: str
) -> None:
    with pytest.raises(PinError, match=message):
        pin(hub, world(tmp_path), **wanted)


def test_a_gated_hub_asks_for_a_token_by_its_setting(hub_root: Path, tmp_path: Path) -> None:
    with Hub(hub_root, token="right") as hub:
        with pytest.raises(PinError, match=r"hub: \{token: \{env: HF_TOKEN\}\}"):
            pin(hub, world(tmp_path), quant="Q4_0")
        wrong = World(tmp_path, {}, hub_token=lambda _: "wrong")
        with pytest.raises(PinError, match="token is refused"):
            pin(hub, wrong, quant="Q4_0")
        right = World(tmp_path, {}, hub_token=lambda _: "right")
        # A small file has to be read as well: with the token, too.
        assert pin(hub, right, quant="TQ1_0").files[0].size == 4


def test_the_token_goes_to_no_other_host(hub_root: Path, tmp_path: Path) -> None:
    """Two hubs: the first redirects a small file's content to the second."""
    with Hub(hub_root) as other, Hub(hub_root, token=TOKEN) as hub:
        from inventories.pinning.web import BearerToken, ask

        auth = BearerToken(TOKEN, hub.url)
        ask(f"{hub.url}/api/models/{REPO}/refs", auth=auth)
        ask(f"{other.url}/api/models/{REPO}/refs", auth=auth)
        assert hub.requests[-1][2] == f"Bearer {TOKEN}"
        assert other.requests[-1][2] is None


def test_an_endpoint_that_is_no_hub_is_said_so(files: FileServer, tmp_path: Path) -> None:
    place = files.root / "api" / "models" / REPO
    place.mkdir(parents=True)
    (place / "refs").write_text("<html>welcome</html>")
    body = {"hub": {"repo": REPO, "quant": "Q4_0", "endpoint": files.url}}
    with pytest.raises(PinError, match="not JSON"):
        resolve(request("models", body), world(tmp_path))


def test_an_endpoint_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    body = {"hub": {"repo": REPO, "quant": "Q4_0", "endpoint": "http://127.0.0.1:9"}}
    with pytest.raises(PinError, match="can't connect"):
        resolve(request("models", body), world(tmp_path))


def listed(*names: str) -> list[HubFile]:
    return [HubFile(name, 1, "0" * 64) for name in names]


@pytest.mark.parametrize(
    ("names", "quant", "chosen"),
    [
        # As unsloth, bartowski and ggml-org name their files.
        (["GLM-4.7-Flash-UD-Q4_K_XL.gguf", "GLM-4.7-Flash-Q4_K_M.gguf"], "UD-Q4_K_XL", 0),
        (["GLM-4.7-Flash-UD-Q4_K_XL.gguf", "GLM-4.7-Flash-Q4_K_M.gguf"], "q4_k_m", 1),
        (["gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b-F16.gguf"], "MXFP4", 0),
        (["Model.Q4_1.gguf", "imatrix.gguf"], "Q4_1", 0),
        (["a-Q4_K_S.gguf", "a-Q4_K_M.gguf", "a-Q4_K.gguf"], "Q4_K", 2),
    ],
)
def test_names_in_the_wild_are_understood(names: list[str], quant: str, chosen: int) -> None:
    (found,) = choose_files(listed(*names), quant, None, "hub")
    assert found.path == names[chosen]


def test_two_models_of_one_quant_are_not_guessed_between() -> None:
    with pytest.raises(PinError, match=r"matches 2 models: a-Q4_0.gguf, b-Q4_0.gguf; name one"):
        choose_files(listed("a-Q4_0.gguf", "b-Q4_0.gguf"), "Q4_0", None, "hub")


def test_a_missing_shard_is_an_incomplete_repository() -> None:
    names = ("a-Q4_0-00001-of-00003.gguf", "a-Q4_0-00003-of-00003.gguf")
    with pytest.raises(PinError, match="2 of its 3 shards"):
        choose_files(listed(*names), "Q4_0", None, "hub")


@pytest.mark.parametrize(
    "name", ["../x-Q4_0.gguf", "/x-Q4_0.gguf", "-x-Q4_0.gguf", "a\n-Q4_0.gguf"]
)
def test_a_name_that_would_hurt_a_host_is_refused(
    files: FileServer, tmp_path: Path, name: str
) -> None:
    import json

    place = files.root / "api" / "models" / REPO / "tree"
    place.mkdir(parents=True)
    entry = {"type": "file", "path": name, "size": 1, "lfs": {"oid": "0" * 64}}
    (place / ("a" * 40)).write_text(json.dumps([entry]))
    body = {"hub": {"repo": REPO, "quant": "Q4_0", "revision": "a" * 40, "endpoint": files.url}}
    with pytest.raises(PinError, match="not safe"):
        resolve(request("models", body), world(tmp_path))
