# Puts a release of a server in force, and keeps it only if it answers as declared; otherwise the
# one that was kept before serves again. Runs as a job on the host: it ends so whoever watches.
# What it replaces stays beside it, as .old, until a release is kept: a disk that the new one filled
# doesn't keep the old one from coming back. A host that loses its power meanwhile puts the kept one
# back at its next start, before the server's: see guard.
unit=@{unit}
units=@{units}
settings=@{settings}
store=@{store}
action=@{action}
action=${1-$action}
guard=@{guard}
setting=@{setting}
umask 077
placed= # names of files that an exchange brought where there were none

tenths() {
  read -r up _ < /proc/uptime
  part=${up#*.}
  echo $((${up%.*} * 10 + ${part%?}))
}
seconds() { echo "$(($1 / 10)).$(($1 % 10)) s"; }
show() { systemctl show -P "$1" -- "$unit"; }

names="@{names} unit"
pair() { # a release's folder and a name: the file there, and where it has to lie
  case $2 in
    unit) from=$1/unit to=$units/$unit ;;
    *) from=$1/etc/$2 to=$settings/$2 ;;
  esac
}
sweep() { # files with these endings
  for ending; do
    for name in $names; do
      pair "$store" "$name"
      rm -f -- "$to$ending"
    done
  done
}
current() { # whether a file is in its place already
  cmp -s -- "$1" "$2" && [ "$(stat -c %a:%u:%g -- "$1")" = "$(stat -c %a:%u:%g -- "$2")" ]
}
prepare() { # a release's files beside their places: whatever needs room happens here
  (umask 022; mkdir -p -- "$settings") || return
  for name in $names; do
    pair "$1" "$name"
    if [ ! -e "$from" ] || current "$from" "$to"; then continue; fi
    cp -p -- "$from" "$to.new" && sync -- "$to.new" || return
  done
}
exchange() { # what was prepared for what is there; the unit comes last
  for name in $names; do
    pair "$1" "$name"
    if [ -e "$to.new" ]; then
      if [ -e "$to" ]; then ln -f -- "$to" "$to.old" || return
      else placed="$placed $name"; fi
      mv -fT -- "$to.new" "$to" || return
    elif [ -e "$to" ] && [ ! -e "$from" ]; then mv -fT -- "$to" "$to.old" || return; fi
  done
  systemctl daemon-reload && systemctl enable --quiet -- "$unit"
}
undo() { # the exchange
  for name in $names; do
    pair "$store" "$name"
    if [ -e "$to.old" ]; then mv -fT -- "$to.old" "$to" || :; continue; fi
    case " $placed " in *" $name "*) rm -f -- "$to" ;; esac
  done
}
put() { # a release's folder: all of its files, or none
  placed=
  sweep .new .old # of a host that went down in the middle
  if prepare "$1" && exchange "$1"; then return; fi
  undo
  sweep .new
  systemctl daemon-reload || :
  return 1
}
guard() { # a boot in the middle of a trial finds the release that was kept
  cp -- script "$store/back"
  cat > "$units/$guard" <<END
@{mark}: it goes when the trial ends.
[Unit]
Description=Puts back the release of $unit that was kept, after a trial that was cut off
ConditionPathExists=$store/back
Before=$unit

[Service]
Type=oneshot
ExecStart=/bin/sh -eu $store/back boot

[Install]
WantedBy=multi-user.target
END
  systemctl enable --quiet -- "$guard"
  sync -f -- "$store/back"
  sync -f -- "$units"
}
unguard() {
  systemctl disable --quiet -- "$guard" || :
  rm -f -- "$store/back" "$units/$guard"
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
        "if it was still loading, raise $setting.ready_timeout" ;;
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
loaded() { # waits while a server that is being started loads its model
  end=$((began + $(cat -- "$1/timeout") * 10))
  while [ "$(tenths)" -lt "$end" ]; do
    case $(show SubState) in start | start-post) sleep 0.5 ;; *) return ;; esac
  done
}
stays() { # until it is @{settle} s old: what ends at once is no release to keep
  pid=$(show MainPID)
  # Where a container has an uptime of its own, its age isn't known: it is waited for whole.
  age=$((($(tenths) * 100000 - $(show ExecMainStartTimestampMonotonic)) / 100000))
  [ "$age" -ge 0 ] || age=0
  end=$(($(tenths) + @{settle}0 - age))
  while [ "$(tenths)" -lt "$end" ]; do
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
  [ ! -e "$store/back" ] || unguard
  printf '%s\n' "$1" > message
  exit 1
}
replace_link() { ln -sfn -- "$2" "$1.new" && mv -fT -- "$1.new" "$1"; }

again() { # the release that served before; $1: why. Whatever fails on the way, it is started.
  systemctl stop -- "$unit" || :
  undo
  trouble=
  put "$store/current" || trouble=", though not all of its files could be put back"
  kept=$(readlink -- "$store/current") || :
  if start; then
    gone=$(seconds $(($(tenths) - began)))
    fail "$unit $1; release $kept serves again after $gone of interruption$trouble"
  fi
  last_words
  fail "$unit $1; release $kept does not start either$trouble: see journalctl -u $unit"
}

mkdir -p -- "$store"
exec 9>> "$store/lock"
flock 9
began=$(tenths)
kept=$(readlink -- "$store/current") || kept=
[ -e "$store/current/unit" ] || kept=

if [ "$action" = boot ]; then
  undo
  [ -z "$kept" ] || put "$store/current"
  sweep .old
  unguard
  exit 0
fi

if [ "$action" = back ]; then
  wanted=$(readlink -- "$store/previous") || wanted=
  [ -e "$store/previous/unit" ] || fail "$unit has no previous release to go back to"
  [ -n "$kept" ] || fail "$unit has no current release: a converge checks what runs, and keeps it"
  # A key that was changed since stays changed.
  if grep -q '^LoadCredential=api-key:' "$store/previous/unit" && [ -e "$settings/api-key" ]; then
    cp -p -- "$settings/api-key" "$store/previous/etc/api-key"
  fi
  said=$(sh "$store/previous/check" devices) || fail "$unit: $said; nothing was changed"
  guard
  put "$store/previous" || { unguard; exit 1; }
  start || :
  { why=$(judge "$store/previous") && why=$(stays); } || { last_words; again "$why"; }
  sweep .old
  replace_link "$store/previous" "$kept"
  replace_link "$store/current" "$wanted"
  unguard
  echo "release $wanted serves again after $(seconds $(($(tenths) - began))) of interruption" > report
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
  [ -z "$kept" ] || guard
  put "$next" || { unguard; exit 1; }
  start || :
fi
[ "$action" = restart ] || loaded "$next"
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
if [ -n "$kept" ] && [ "$kept" != "$id" ]; then replace_link "$store/previous" "$kept"; fi
replace_link "$store/current" "$id"
sweep .old
[ ! -e "$store/back" ] || unguard
if [ -n "$kept" ] && [ "$kept" != "$id" ] && [ -e "$store/$id/etc/api-key" ]; then
  # The key that is in force is enough; one that it replaced is of no use any more.
  rm -f -- "$store/$kept/etc/api-key"
fi
before=$(readlink -- "$store/previous") || before=
for folder in "$store"/*/; do
  folder=${folder%/}
  [ -L "$folder" ] || [ "${folder##*/}" = "$id" ] || [ "${folder##*/}" = "$before" ] ||
    rm -rf -- "$folder"
done
if [ "$action" = restart ]; then echo "release $id serves, checked after $took" > report
else echo "release $id serves as declared: kept" > report; fi
