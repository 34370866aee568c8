# Puts a release of a server in force, and keeps it only if it answers as declared; otherwise the
# one that was kept before serves again. Runs as a job on the host: it ends so whoever watches.
unit=@{unit}
units=@{units}
settings=@{settings}
store=@{store}
action=@{action}
umask 077

tenths() {
  read -r up _ < /proc/uptime
  part=${up#*.}
  echo $((${up%.*} * 10 + ${part%?}))
}
seconds() { echo "$(($1 / 10)).$(($1 % 10)) s"; }
show() { systemctl show -P "$1" -- "$unit"; }

place() { # a file of a release, where it has to lie; replaced at one blow
  if cmp -s -- "$1" "$2" && [ "$(stat -c %a:%u:%g -- "$1")" = "$(stat -c %a:%u:%g -- "$2")" ]
  then return; fi
  if cp -p -- "$1" "$2.new" && sync -- "$2.new" && mv -fT -- "$2.new" "$2"; then return; fi
  rm -f -- "$2.new"
  return 1
}
put() { # a release's folder
  (umask 022; mkdir -p -- "$settings")
  rm -f -- "$settings"/*.new "$units/$unit.new" # of a host that went down in the middle
  for name in @{names}; do
    if [ -e "$1/etc/$name" ]; then place "$1/etc/$name" "$settings/$name"
    else rm -f -- "$settings/$name"; fi
  done
  place "$1/unit" "$units/$unit"
  systemctl daemon-reload
  systemctl enable --quiet -- "$unit"
}
start() {
  systemctl reset-failed -- "$unit" 2>/dev/null || :
  systemctl restart -- "$unit" 2>/dev/null
}
last_words() { # of the latest start: systemd's and its own
  start=$(show InvocationID)
  journalctl -n @{lines} --no-pager -o cat \
    _SYSTEMD_INVOCATION_ID="$start" + INVOCATION_ID="$start" || :
}
judge() { # a release that was started: says what is wrong with it
  if [ "$(show ActiveState)" != active ]; then
    case $(show Result) in
      timeout) echo "did not answer within $(cat -- "$1/timeout") s: its last log lines are above;" \
        "if it was still loading, raise @{setting}.ready_timeout" ;;
      *) echo "did not start ($(show Result)): its last log lines are above" ;;
    esac
    return 1
  fi
  left=$(($(cat -- "$1/timeout") - ($(tenths) - began) / 10))
  [ "$left" -ge @{least} ] || left=@{least}
  said=$(sh "$1/check" answers "$left") && return
  echo "answers, and not as declared: $said"
  return 1
}
stays() { # until it is @{settle} s old: what ends at once is no release to keep
  pid=$(show MainPID)
  started=$(show ExecMainStartTimestampMonotonic)
  while [ $(($(tenths) * 100000 - started)) -lt @{settle}000000 ]; do
    sleep 0.5
    if [ "$(show MainPID)" != "$pid" ] || [ "$(show ActiveState)" != active ]; then
      result=$(journalctl -n 1 --no-pager -o cat _PID=1 UNIT="$unit" --grep 'Failed with result' \
        2>/dev/null | sed -n "s/.*result '\(.*\)'.*/\1/p")
      echo "ended soon after it answered (${result:-no word why}): its last log lines are above"
      return 1
    fi
  done
}
fail() {
  printf '%s\n' "$1" > message
  exit 1
}
replace_link() { ln -sfn -- "$2" "$1.new" && mv -fT -- "$1.new" "$1"; }

again() { # the release that served before; $1: why
  systemctl stop -- "$unit" || :
  put "$store/current"
  kept=$(readlink -- "$store/current")
  if start; then
    fail "$unit $1; release $kept serves again after $(seconds $(($(tenths) - began))) of interruption"
  fi
  last_words
  fail "$unit $1; release $kept does not start either: see journalctl -u $unit"
}

mkdir -p -- "$store"
exec 9>> "$store/lock"
flock 9
began=$(tenths)
kept=$(readlink -- "$store/current") || kept=
[ -e "$store/current/unit" ] || kept=

if [ "$action" = back ]; then
  to=$(readlink -- "$store/previous") || to=
  [ -e "$store/previous/unit" ] || fail "$unit has no previous release to go back to"
  # A key that was changed since stays changed.
  if grep -q '^LoadCredential=api-key:' "$store/previous/unit" && [ -e "$settings/api-key" ]; then
    cp -p -- "$settings/api-key" "$store/previous/etc/api-key"
  fi
  said=$(sh "$store/previous/check" devices) || fail "$unit: $said; nothing was changed"
  put "$store/previous"
  start || :
  why=$(judge "$store/previous") || { last_words; again "$why"; }
  replace_link "$store/previous" "$kept"
  replace_link "$store/current" "$to"
  echo "release $to serves again after $(seconds $(($(tenths) - began))) of interruption" > report
  exit 0
fi

id=@{id}
next=$store/next
rm -rf -- "$next"
mkdir -p -- "$next/etc"
stage() { cat -- "$1" > "$next/$2"; chmod "$3" -- "$next/$2"; }
@{stage}

if [ "$action" = restart ]; then
  said=$(sh "$next/check" devices) ||
    { rm -rf -- "$next"; fail "$unit: $said; nothing was changed, what served goes on"; }
  put "$next"
  start || :
fi
why=$(judge "$next") || bad=yes
[ -n "${bad-}" ] || [ "$kept" = "$id" ] || why=$(stays) || bad=yes
if [ -n "${bad-}" ]; then
  last_words
  same=yes
  [ "$kept" = "$id" ] || same=
  for name in @{names}; do
    [ ! -e "$next/etc/$name" ] && [ ! -e "$store/current/etc/$name" ] ||
      cmp -s -- "$next/etc/$name" "$store/current/etc/$name" || same=
  done
  rm -rf -- "$next"
  [ -n "$kept" ] || fail "$unit $why; there is no earlier release to go back to"
  [ -z "$same" ] || fail "$unit $why; it is the release that served before"
  again "$why"
fi
took=$(seconds $(($(tenths) - began)))
if [ -e "$store/$id" ]; then rm -rf -- "$store/old"; mv -T -- "$store/$id" "$store/old"; fi
sync -f -- "$next"
mv -T -- "$next" "$store/$id"
rm -rf -- "$store/old"
if [ -n "$kept" ] && [ "$kept" != "$id" ]; then
  # The key that is in force is enough; one that it replaced is of no use any more.
  [ ! -e "$store/$id/etc/api-key" ] || rm -f -- "$store/$kept/etc/api-key"
  replace_link "$store/previous" "$kept"
fi
replace_link "$store/current" "$id"
before=$(readlink -- "$store/previous") || before=
for folder in "$store"/*/; do
  folder=${folder%/}
  [ -L "$folder" ] || [ "${folder##*/}" = "$id" ] || [ "${folder##*/}" = "$before" ] ||
    rm -rf -- "$folder"
done
if [ "$action" = restart ]; then echo "release $id serves, checked after $took" > report
else echo "release $id serves as declared: kept" > report; fi
