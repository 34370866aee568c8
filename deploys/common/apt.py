"""Shell functions around apt and dpkg: their locks are waited for, and what holds them is named.

Upstream behaviour relied on: ``DPkg::Lock::Timeout`` makes apt wait for dpkg's lock, but neither
for that of the package lists (apt 2.6) nor is there anything like it in dpkg, which says ``locked
by another process`` (with its number since 1.21) and exits 2.
"""

from __future__ import annotations

from deploys.common.jobs import REASON_FUNCTION

LOCK_SECONDS = 300
"""How long another apt or dpkg is waited for."""

APT_FUNCTIONS = f"""
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
{REASON_FUNCTION}\
apt_get() {{ dpkg_ready && apt-get -y -q -o DPkg::Lock::Timeout={LOCK_SECONDS} "$@"; }}

# held FILE: another process holds a lock, and FILE is what apt or dpkg said of it: wait a while.
held() {{
  pid=$(sed -n 's/.*process \\(with pid \\)\\{{0,1\\}}\\([0-9][0-9]*\\).*/\\2/p' "$1" | head -n 1)
  who="another process"
  [ -z "$pid" ] || who="$(cat "/proc/$pid/comm" 2>/dev/null || echo process) ($pid)"
  if [ $waited -ge {LOCK_SECONDS} ]; then
    reason "$who has held the lock of the host's package manager for $waited s:" \\
      "let it end, or end it, then run again"
    return 1
  fi
  [ $waited != 0 ] || echo "waiting for $who, which holds the lock of the package manager"
  waited=$((waited + 5)); sleep 5
}}

# dpkg_ready: finish what an interrupted dpkg has left; waits for another one to end.
dpkg_ready() {{
  waited=0
  until dpkg --configure -a > dpkg.log 2>&1; do
    if grep -q 'locked by another process' dpkg.log; then held dpkg.log && continue; return 1; fi
    cat dpkg.log
    broken=$(sed '1,/^Errors were encountered while processing/d' dpkg.log | xargs echo)
    reason "dpkg can't set up what is half installed: $broken: run dpkg --configure -a on the" \\
      "host and mend what it names, then run again"
    return 1
  done
}}

# apt_update [OPTION...]: fetch package lists; waits for another apt to end.
apt_update() {{
  waited=0
  until apt-get -y -q -o APT::Update::Error-Mode=any update "$@" > apt-update.log 2>&1; do
    if grep -q 'Could not get lock' apt-update.log; then
      held apt-update.log && continue; return 1
    fi
    cat apt-update.log
    said=$(grep -E '^E: .*(not valid yet|expired)' apt-update.log || grep '^E: ' apt-update.log)
    said=$(echo "$said" | head -n 1) clock=
    case $said in
    *"not valid yet"* | *expired*) clock=", and its clock (it says $(date -u +%Y-%m-%d))" ;;
    esac
    reason "apt: ${{said#E: }}: check the host's package sources$clock"
    return 1
  done
}}
"""
