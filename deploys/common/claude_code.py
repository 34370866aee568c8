"""What Claude Code's settings must hold to talk to a server of the fleet. Pure, free of pyinfra.

Upstream behaviour relied on (Claude Code's documentation, code.claude.com/docs: settings, env-vars
and llm-gateway, read in November 2026): values of ``env`` win over what the user's shell exports;
``/v1/messages`` is appended to ``ANTHROPIC_BASE_URL``; what ``apiKeyHelper`` prints, run by
``/bin/sh``, is sent as ``X-Api-Key`` and as bearer token; ``ANTHROPIC_AUTH_TOKEN`` comes before it,
and without either a login is asked for; ``ANTHROPIC_SMALL_FAST_MODEL`` is the older name of
``ANTHROPIC_DEFAULT_HAIKU_MODEL``; the attribution header changes with each request, at the very
start of the prompt, where it would cost the server its prompt cache.
"""

from __future__ import annotations

from inventories.settings import ClaudeCodeSettings

HELPER = "cat ~/.claude/llamaherd.key"
NO_KEY = "none"
"""Stands for the key of a server that asks for none, so that no login is asked for either."""


def environment(settings: ClaudeCodeSettings) -> dict[str, str]:
    """What ``env`` must hold."""
    small = settings.small_model or settings.model
    values = {
        "ANTHROPIC_BASE_URL": settings.base_url,
        "ANTHROPIC_MODEL": settings.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": settings.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": settings.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": small,
        "ANTHROPIC_SMALL_FAST_MODEL": small,
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(settings.output),
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    if settings.api_key is None:
        values["ANTHROPIC_AUTH_TOKEN"] = NO_KEY
    return values
