"""What holds for all tests."""

# First of all: it patches the standard library for gevent. A module that loaded ssl before would
# leave later tests of the same process with contexts that recurse without end.
import pyinfra_cli  # type: ignore[import-untyped]  # noqa: F401  # isort: skip

import pytest
from hypothesis import settings

# The machines that run these are shared and noisy: an example that took long says nothing.
settings.register_profile("llamaherd", deadline=None)
settings.load_profile("llamaherd")


@pytest.fixture(scope="session")
def llama_programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """``llama-server`` and ``llama-fit-params`` by name, compiled for this run."""
    from llama_programs import compiled

    return compiled(tmp_path_factory.mktemp("programs"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that tests/faults has: pytest takes them only here."""
    parser.addoption(
        "--faults",
        choices=("quick", "all"),
        default="quick",
        help="which cases of tests/faults run (quick: the third that make test runs)",
    )
    parser.addoption(
        "--write-faults", action="store_true", help="renew the table of docs/reliability.md"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, and count as such, the faults that weren't asked for."""
    if config.getoption("--faults") == "all":
        return
    slow = [item for item in items if item.get_closest_marker("faults")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("faults")]
