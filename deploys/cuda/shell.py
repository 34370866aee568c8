"""Shell functions that installers share: missing tools (those of apt must be there), own files."""

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

PUT_FUNCTION = r"""
# put PATH: replace a file of root's by what comes on standard input.
put() {
  mkdir -p -- "$(dirname -- "$1")"
  cat > "$1.new"; chmod 644 -- "$1.new"
  sync -- "$1.new"; mv -fT -- "$1.new" "$1"
}
"""
