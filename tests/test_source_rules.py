"""Rules that the source itself keeps, so that a dry run tells the truth."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("deploys", "facts", "inventories", "schemas", "llamaherd")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Built-ins of pyinfra that never converge, or hide from a dry run.
FORBIDDEN = {
    "server.shell",
    "python.call",
    "git.repo",
    "systemd.service",
    "systemd.daemon_reload",
    "apt.packages",
    "apt.update",
    "files.download",
}
# What each package may import of ours (the layers' table in docs/architecture.md).
MAY_IMPORT = {
    "schemas": {"schemas"},
    "inventories": {"inventories", "schemas"},
    "facts": {"facts"},
    "deploys": {"deploys", "facts", "inventories"},
    "llamaherd": set(PACKAGES),
}


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def test_there_are_sources_to_look_at() -> None:
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_operation_that_never_converges(path: Path) -> None:
    assert FORBIDDEN.isdisjoint(calls(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_what_they_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name for name in imports(ast.parse(path.read_text())) if name in PACKAGES}
    assert ours <= MAY_IMPORT[package]


def test_host_data_is_read_in_one_place() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.is_relative_to(ROOT / "deploys") and "host.data" in path.read_text()
    }
    # The summary names the address of a host that it couldn't reach.
    assert readers == {"deploys/common/operations.py", "deploys/common/summary.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_public_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    public = [
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    silent = [node.name for node in public if ast.get_docstring(node) is None]
    assert silent == []
    assert ast.get_docstring(tree) is not None or not tree.body
