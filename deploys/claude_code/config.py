"""Claude Code's settings as text: pure, no I/O, no pyinfra.

Owns, in each named user's ``~/.claude/settings.json``, the names of
:func:`deploys.common.claude_code.environment` inside ``env``, and ``apiKeyHelper`` where the server
asks for a key. Every other byte stays.
"""

from __future__ import annotations

from deploys.common.claude_code import HELPER, NO_KEY, environment
from deploys.common.json_text import JsonText
from inventories.settings import ClaudeCodeSettings


def user_settings(text: str, settings: ClaudeCodeSettings, place: str) -> str:
    """``text`` of a user's settings with our values in it; the same text when they are.

    + text: may be empty or blank, for a file that is absent or empty
    + place: the file, for messages
    """
    editor = JsonText(text, place)
    for name, value in environment(settings).items():
        editor.set(("env", name), value)
    if settings.api_key is not None:
        editor.set(("apiKeyHelper",), HELPER)
        if editor.value(("env", "ANTHROPIC_AUTH_TOKEN")) == NO_KEY:
            editor.remove(("env",), "ANTHROPIC_AUTH_TOKEN")
    elif editor.value(("apiKeyHelper",)) == HELPER:
        editor.remove((), "apiKeyHelper")
    return editor.text
