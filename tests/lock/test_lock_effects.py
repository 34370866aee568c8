"""Keys that move what is asked to be pinned: locked by real servers, and told to a host."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hub import Hub
from lock_support import FileServer, git, make_apt_repository, run_lock, write_fleet

from deploys.common.downloads import fetch_lines
from deploys.cuda import repository as cuda_repository
from deploys.llama_cpp.build import Machine, plan_build, source_script
from facts.cuda import CudaState
from inventories.fleet import load_fleet
from inventories.lock import read_lock
from inventories.resolve import resolve_host
from inventories.settings import HostSettings

SHA256 = hashlib.sha256(b"GGUF").hexdigest()
# A build that takes no network, for fleets that are about models.
HOST = f"""
hosts:
  one:
    cuda: {{provider: none}}
    llama_cpp: {{archive: {{path: src.tgz, sha256: {SHA256}}}, commit: abc1234, build_number: 9999}}
    servers: {{coder: {{model: tiny, port: 8888}}}}
"""


def told(folder: Path, text: str) -> HostSettings:
    """What the host ``one`` of a fleet is told, once that is locked."""
    (folder / "src.tgz").write_bytes(b"GGUF")
    path = write_fleet(folder, text)
    assert run_lock(path) == 0
    lock = read_lock(path)
    assert lock is not None
    return resolve_host(load_fleet(path), lock, "one")


def fetched(settings: HostSettings) -> str:
    """The script that brings the models."""
    return "\n".join(fetch_lines(model.files, model.directory) for model in settings.models)


def test_an_endpoint_of_the_fleet_is_where_hosts_fetch_from(hub: Hub, tmp_path: Path) -> None:
    models = "models: {tiny: {hub: {repo: acme/Tiny-GGUF, quant: Q4_0}}}"
    text = fetched(told(tmp_path, f"hub: {{endpoint: '{hub.url}'}}\n{models}{HOST}"))
    assert f"{hub.url}/acme/Tiny-GGUF/resolve/" in text


def test_a_model_of_the_catalogue_is_fetched_by_its_repository(
    hub: Hub, hub_root: Path, tmp_path: Path
) -> None:
    place = hub_root / "unsloth/GLM-4.7-Flash-GGUF"
    place.mkdir(parents=True)
    for quant in ("UD-Q4_K_XL", "Q4_K_M"):
        (place / f"GLM-4.7-Flash-{quant}.gguf").write_bytes(b"GGUF" + bytes(2000))
    models = "models: {tiny: {catalogue: glm-4.7-flash}}"
    text = fetched(told(tmp_path, f"hub: {{endpoint: '{hub.url}'}}\n{models}{HOST}"))
    assert f"{hub.url}/unsloth/GLM-4.7-Flash-GGUF/resolve/" in text


def revised(hub: Hub, revision: str, adapter: str = "main") -> str:
    return f"""
hub: {{endpoint: '{hub.url}'}}
models:
  tiny:
    hub: {{repo: acme/Tiny-GGUF, quant: Q4_0, revision: {revision}}}
    adapters:
      zeta: {{hub: {{repo: acme/LoRA-GGUF, file: zeta.gguf, revision: {adapter}}}}}
{HOST}"""


@pytest.fixture
def lora(hub_root: Path) -> Path:
    """A repository with an adapter."""
    place = hub_root / "acme/LoRA-GGUF"
    place.mkdir()
    (place / "zeta.gguf").write_bytes(b"GGUF" + bytes(3000))
    return place


@pytest.mark.usefixtures("lora")
def test_a_revision_is_the_commit_that_hosts_fetch(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = told(tmp_path, revised(hub, "main")).models[0]
    (commit,) = {part for part in str(model.files[0].url).split("/") if len(part) == 40}
    again = told(tmp_path, revised(hub, commit))
    assert f"/acme/Tiny-GGUF/resolve/{commit}/" in fetched(again)
    assert run_lock(write_fleet(tmp_path, revised(hub, "v2"))) == 1
    assert "has no branch or tag v2" in capsys.readouterr().err


@pytest.mark.usefixtures("lora")
def test_an_adapters_revision_is_the_commit(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(tmp_path, revised(hub, "main", "main")).models[0].files
    (url,) = [str(file.url) for file in found if "LoRA" in str(file.url)]
    (commit,) = {part for part in url.split("/") if len(part) == 40}
    again = told(tmp_path, revised(hub, "main", commit))
    assert f"/acme/LoRA-GGUF/resolve/{commit}/" in fetched(again)
    assert run_lock(write_fleet(tmp_path, revised(hub, "main", "v2"))) == 1
    assert "has no branch or tag v2" in capsys.readouterr().err


def test_files_at_a_path_are_uploaded_from_there(tmp_path: Path) -> None:
    for name in ("tiny.gguf", "zeta.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    adapters = f"adapters: {{zeta: {{path: zeta.gguf, sha256: {SHA256}}}}}"
    models = f"models: {{tiny: {{path: tiny.gguf, sha256: {SHA256}, {adapters}}}}}"
    settings = told(tmp_path, models + HOST)
    assert settings.llama_cpp is not None
    archive = settings.llama_cpp.source.artifact  # type: ignore[union-attr]
    paths = {file.path for file in (*settings.models[0].files, archive)}
    assert paths == {str(tmp_path / name) for name in ("tiny.gguf", "zeta.gguf", "src.tgz")}


def test_a_ref_is_the_commit_that_is_fetched_and_built(repository: Path, tmp_path: Path) -> None:
    for ref, number in (("b3", 3), ("main", 5)):
        settings = told(
            tmp_path,
            "hosts: {one: {cuda: {provider: none}, "
            f"llama_cpp: {{repository: '{repository.as_uri()}', ref: {ref}}}}}}}\n",
        )
        commit = git(repository, "rev-parse", f"{ref}^{{commit}}")
        ((source, toolkit),) = settings.builds
        build = plan_build(source, toolkit, Machine("debian12", "x86_64", "a CPU"))
        assert f" {repository.as_uri()} {commit} " in source_script(source, build)
        assert build.definitions["LLAMA_BUILD_NUMBER"] == str(number)


def test_distributions_are_those_whose_hosts_are_told(files: FileServer, tmp_path: Path) -> None:
    for distribution in ("debian12", "ubuntu2404"):
        make_apt_repository(files.root / "repos", distribution)
    for distribution in ("debian12", "ubuntu2404"):
        place = f"{{url: '{files.url}/repos', distributions: [{distribution}]}}"
        cuda = f"{{provider: nvidia-repo, version: '13.0', repository: {place}}}"
        (toolkit,) = told(tmp_path, f"hosts: {{one: {{cuda: {cuda}}}}}\n").toolkits
        (found,) = toolkit.repositories
        script = cuda_repository.script([str(toolkit.root)], found, CudaState())
        assert f"{files.url}/repos/{distribution}/x86_64/" in script
