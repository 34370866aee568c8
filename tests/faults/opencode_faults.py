"""Users' configurations that can't be edited, and homes that aren't there."""

from __future__ import annotations

from collections.abc import Callable

from fault import SAYS, Fault
from fault_bed import Bed

HOME = "/home/dev"
CONFIG = f"{HOME}/.config/opencode/opencode.json"
STALE = f"sed -i 's,http://127.0.0.1:8888,http://127.0.0.1:1,' {CONFIG}"
"""One of our values is another: the next converge has to write."""


def shell(command: str) -> Callable[[Bed], None]:
    """Run that on the host; it must succeed."""

    def act(bed: Bed) -> None:
        assert bed.sh(f"({command}) > /dev/null && echo done") == "done", command

    return act


def broken_json(bed: Bed) -> None:
    shell(f"""printf '{{\\n  "theme": "mine",\\n  "model" "x"\\n}}\\n' > {CONFIG}""")(bed)
    bed.notes["broken"] = bed.sh(f"base64 -w 0 {CONFIG}")


def moved_away(bed: Bed) -> None:
    bed.undo.append(f"rm -f {CONFIG}.mine")
    assert bed.notes["broken"]
    assert bed.sh(f"base64 -w 0 {CONFIG}") == bed.notes["broken"]
    shell(f"mv {CONFIG} {CONFIG}.mine")(bed)


def link_to(target: str) -> Callable[[Bed], None]:
    """The user's configuration is a link to somebody else's file, of which nothing may change."""

    def carry_out(bed: Bed) -> None:
        if target.startswith("/home/other"):
            bed.undo.append("userdel -r other")
            shell("useradd -m other; chmod 755 /home/other")(bed)
            shell(f"echo '{{}}' > {target}; chown other {target}")(bed)
        bed.notes["linked"] = bed.sh(f"sha256sum {target}; stat -c '%a %U' {target}")
        shell(f"rm {CONFIG}; ln -s {target} {CONFIG}")(bed)

    return carry_out


def unlink(target: str) -> Callable[[Bed], None]:
    """The user removes the link; what it led to is as it was."""

    def mend(bed: Bed) -> None:
        now = bed.sh(f"sha256sum {target}; stat -c '%a %U' {target}")
        assert now
        assert now == bed.notes["linked"]
        shell(f"rm {CONFIG}")(bed)

    return mend


def read_only(bed: Bed) -> None:
    shell(f"{STALE}; chmod 400 {CONFIG}")(bed)
    result = bed.converge()
    assert result.returncode == 0, result.stdout + result.stderr
    assert bed.sh(f"stat -c %a {CONFIG}; grep -c 127.0.0.1:8888 {CONFIG}") == "400\n1"
    shell(f"chmod 644 {CONFIG}")(bed)


def immutable(bed: Bed) -> None:
    bed.undo.append(f"chattr -i {CONFIG}")
    shell(f"{STALE}; chattr +i {CONFIG}")(bed)


def home_gone(bed: Bed) -> None:
    bed.undo.append(f"[ ! -e {HOME}.away ] || {{ rm -rf {HOME}; mv {HOME}.away {HOME}; }}")
    shell(f"mv {HOME} {HOME}.away")(bed)


SHADOW = "/etc/shadow"
OTHERS = "/home/other/opencode.json"
LINK = r"a link in the home of dev leads to {}, which belongs to {}: remove that link"

FAULTS = (
    Fault(
        "broken JSON",
        "opencode",
        "a user's opencode.json is no JSON any more",
        f"{SAYS}file, line and column, and to mend it or move it away; it stays byte for byte",
        broken_json,
        quick=True,
        says=r"/home/dev/\S+/opencode\.json:3:\d+: not JSON: .*mend the file or move it away",
        mend=moved_away,
    ),
    Fault(
        "a link to a file of root's",
        "opencode",
        "a user's opencode.json is a link to /etc/shadow",
        f"{SAYS}where the link leads, and to remove it; what it leads to isn't touched",
        link_to(SHADOW),
        quick=True,
        says=LINK.format(SHADOW, "root"),
        mend=unlink(SHADOW),
    ),
    Fault(
        "a link into another's home",
        "opencode",
        "a user's opencode.json is a link to a file in another user's home",
        f"{SAYS}where the link leads, and to remove it; what it leads to isn't touched",
        link_to(OTHERS),
        says=LINK.format(OTHERS, "other"),
        mend=unlink(OTHERS),
    ),
    Fault(
        "read-only",
        "opencode",
        "a user's opencode.json has mode 400, and a value of ours in it is another",
        "it is written all the same, and keeps its mode",
        read_only,
    ),
    Fault(
        "immutable",
        "opencode",
        "a user's opencode.json is immutable (chattr +i), and a value of ours in it is another",
        f"{SAYS}that it can't be written, and to look with lsattr",
        immutable,
        says=r"can't write /home/dev/\S+: Operation not permitted: see whether .*\(lsattr\)",
        mend=shell(f"chattr -i {CONFIG}"),
    ),
    Fault(
        "owned by somebody else",
        "opencode",
        "a user's opencode.json belongs to root, and a value of ours in it is another",
        f"{SAYS}whose it is, and which chown makes it the user's",
        shell(f"{STALE}; chown root {CONFIG}"),
        says=rf"{CONFIG} belongs to root, and dev's values must go into it: run chown dev",
        mend=shell(f"chown dev {CONFIG}"),
    ),
    Fault(
        "a home that is missing",
        "opencode",
        "the home of a declared user isn't there",
        f"{SAYS}which home, and which command makes it",
        home_gone,
        says=r"the home /home/dev of dev does not exist: create it \(mkhomedir_helper dev\)",
        mend=shell("mkhomedir_helper dev"),
    ),
)
