"""Shell functions that both installers use: missing tools, apt's locks."""

from __future__ import annotations

LOCK_SECONDS = 300

# `apt-get update` takes the lists' lock, for which DPkg::Lock::Timeout doesn't wait (apt 2.6).
APT_FUNCTIONS = f"""
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
apt_get() {{ apt-get -y -q -o DPkg::Lock::Timeout={LOCK_SECONDS} "$@"; }}

# apt_update [OPTION...]: fetch package lists; waits for another apt to end.
apt_update() {{
  waited=0
  until apt_get -o APT::Update::Error-Mode=any update "$@" > apt-update.log 2>&1; do
    if grep -q 'Could not get lock' apt-update.log && [ $waited -lt {LOCK_SECONDS} ]; then
      waited=$((waited + 5)); sleep 5; continue
    fi
    cat apt-update.log; return 1
  done
}}
"""

TOOL_FUNCTIONS = """
# need COMMAND...: install the packages of these names whose commands are missing.
need() {
  missing=
  for tool in "$@"; do command -v "$tool" > /dev/null || missing="$missing $tool"; done
  [ -n "$missing" ] || return 0
  echo "installing$missing"
  if command -v apt-get > /dev/null; then
    case "$missing" in *curl*) missing="$missing ca-certificates";; esac
    apt_get install --no-install-recommends $missing || {
      apt_update || echo "some package lists could not be fetched, going on" >&2
      apt_get install --no-install-recommends $missing
    }
  elif command -v dnf > /dev/null; then dnf -y -q install $missing
  elif command -v zypper > /dev/null; then zypper -n -q install $missing
  else echo "install$missing on this host, then run again" >&2; return 1; fi
}
"""
