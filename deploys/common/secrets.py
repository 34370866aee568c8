"""Secrets for the current host, resolved on the controller at the moment they are needed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from deploys.common.operations import UnknownStateError
from inventories.secrets import SecretError, resolve_secret
from inventories.settings import SecretReference


def secret(reference: SecretReference) -> str:
    """The secret's text; UnknownStateError naming the reference when it can't be had."""
    try:
        return _resolved(reference)
    except SecretError as error:
        raise UnknownStateError(str(error)) from error


@cache
def _resolved(reference: SecretReference) -> str:
    """Asked once a run: a password manager's command is not called for each host and phase."""
    return resolve_secret(reference, Path.cwd())
