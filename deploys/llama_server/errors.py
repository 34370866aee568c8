"""What is wrong with a server's settings."""

from __future__ import annotations


class ServerError(ValueError):
    """These settings make no server; the message names the setting to change."""
