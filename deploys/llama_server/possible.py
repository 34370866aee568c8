"""What of servers' settings can't work on any host, told before anything is changed.

The very code that renders a server's files judges them: with no build to ask yet, so a setting that
only a newer build knows passes here. The one file that is read is a chat template's, on the
controller (:func:`template_problems`).
"""

from __future__ import annotations

from collections.abc import Iterator

from deploys.common.operations import HostError
from deploys.common.shell import WordError
from deploys.llama_server import chat_template
from deploys.llama_server.errors import ServerError
from deploys.llama_server.files import server_files
from deploys.llama_server.instance import Instance
from inventories.llama_options import flag_of
from inventories.settings import BUILDS_ROOT, HostSettings, ServerSettings

# Beside one of these the tokens that a model was trained for are no bound.
_STRETCHES = ("--rope-", "--yarn-", "--override-kv")


def settings_problems(settings: HostSettings) -> list[str]:
    """Why servers could never start, or never answer as declared, each with what mends it."""
    found: dict[str, None] = {}
    names = {model.name for model in settings.models if model.files}
    for server in settings.servers:
        drafts = [served.draft.model for served in server.served if served.draft is not None]
        if names.issuperset([*(served.model for served in server.served), *drafts]):
            found |= dict.fromkeys([*_stretched(settings, server), *_refused(settings, server)])
    return list(found)


def template_problems(settings: HostSettings) -> list[str]:
    """Chat templates that this machine doesn't have, each with its server."""
    found = []
    for server in settings.servers:
        try:
            chat_template(server)
        except HostError as error:
            found.append(str(error))
    return found


def _refused(settings: HostSettings, server: ServerSettings) -> Iterator[str]:
    backends = settings.backends_of(server)
    instance = Instance(
        server=server,
        model=settings.model(server.model),
        binary=f"{BUILDS_ROOT}/unbuilt/bin/llama-server",
        options=frozenset(),
        gpu="cuda" in backends,
        vulkan="vulkan" in backends,
        draft=None if server.draft is None else settings.model(server.draft.model),
        models=tuple(settings.model(served.model) for served in server.models),
    )
    try:
        server_files(instance)
    except (ServerError, WordError) as error:
        yield str(error)


def _stretched(settings: HostSettings, server: ServerSettings) -> Iterator[str]:
    """llama-server caps a session at what the model was trained for (tools/server), so it would
    start and not answer as declared."""
    if any(flag_of(argument).startswith(_STRETCHES) for argument in server.extra_args):
        return
    for served in server.served:
        model = settings.model(served.model)
        trained = 0 if model.dimensions is None else model.dimensions.context
        if 0 < trained < served.context:
            yield (
                f"servers.{server.name}.context: {served.context} tokens, and {model.name} was "
                f"trained for {trained}, at which llama-server caps a session: set context to "
                f"{trained} or less, or stretch the model by extra_args (--rope-scaling yarn)"
            )
