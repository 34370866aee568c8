"""Shell functions that both installers use: missing tools. Those of apt must be there, too."""

from __future__ import annotations

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
