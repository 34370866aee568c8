"""Why there was no look at a box: findings of the first contact. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from llamaherd.onboard.findings import blocker
from llamaherd.onboard.report import BY_WAY_OF, Contact, Finding, Target
from llamaherd.onboard.target import ssh_command


def contact_findings(target: Target, contact: Contact) -> Iterator[Finding]:
    """Why there is no look at the box. One finding: what comes after it can't be known."""
    key = contact.host_key
    where = f"{target.hostname} port {target.port}"
    if key is not None and key.state == "changed":
        yield blocker(
            "ssh.host-key-changed",
            f"{where} shows the host key {key.fingerprint}, and known_hosts has another one",
            "find out why: a new installation has a new key, and so has somebody in between; "
            f"then: ssh-keygen -R {known_name(target)}",
        )
    elif key is not None and key.state == "refused":
        yield blocker(
            "ssh.fingerprint-differs",
            f"{where} shows the host key {key.fingerprint}, which isn't the one that was named",
            "is the address right? If it is, somebody may be in between: look on its console",
        )
    elif key is not None and key.state == "unknown":
        yield blocker(
            "ssh.host-key-unknown",
            f"the host key of {where} isn't in known_hosts: {key.kind} {key.fingerprint}",
            "compare it with the box's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub "
            f"on its console), then: --fingerprint {key.fingerprint}",
        )
    elif not contact.methods:
        yield blocker(
            "ssh.unreachable",
            f"{where} can't be reached: {contact.error or 'no answer'}",
            _unreachable_remedy(target, contact.error),
        )
    else:
        yield _refused(target, contact)


def known_name(target: Target) -> str:
    """How known_hosts names the box."""
    return target.hostname if target.port == 22 else f"'[{target.hostname}]:{target.port}'"


def _unreachable_remedy(target: Target, error: str) -> str:
    if error.startswith(BY_WAY_OF):
        jump = target.proxy.rpartition(",")[2]
        return f"the jump host comes first, with its own key in known_hosts; try: ssh {jump}"
    if "refused" in error:
        return f"is sshd running, and does it listen on port {target.port}? Name it: HOST:PORT"
    if "resolve" in error or "not known" in error:
        return "give an address, or a name or alias that ssh knows"
    return f"try: {ssh_command(target)}"


def _refused(target: Target, contact: Contact) -> Finding:
    passwords = {"password", "keyboard-interactive"} & set(contact.methods)
    offered = ", ".join(contact.methods)
    if target.user == "root":
        once = "; or give root's password once: --password prompt --install-key"
        return blocker(
            "ssh.root-refused",
            f"root isn't let in on {target.label} (offered: {offered})",
            "log in as the installer's user (USER@HOST): PermitRootLogin may be off"
            + (once if passwords else ""),
        )
    if contact.error.startswith("neither key nor password"):
        return blocker(
            "ssh.password-refused",
            f"{target.label} takes neither a key nor the password for {target.user}",
            "look whether both are that user's; sshd's log on the box says why",
        )
    if "publickey" not in contact.methods:
        return blocker(
            "ssh.password-only",
            f"{target.label} takes passwords only, no keys",
            "allow PubkeyAuthentication in its sshd_config; for this look: --password prompt",
        )
    return blocker(
        "ssh.key-refused",
        f"{target.label} doesn't take our key for {target.user}",
        "log in once with the password and leave the key: --password prompt --install-key"
        if passwords
        else f"add this machine's public key to ~{target.user}/.ssh/authorized_keys there",
    )
