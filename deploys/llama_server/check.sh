@{mark}: the next converge undoes changes here.
# check devices: whether this build sees the GPUs that it should use, before anything is stopped.
# check answers SECONDS: whether the server answers as declared: identity, context, a completion,
# the GPU. Says what doesn't and exits 1.
# Whatever asks the driver is given a time: on a card that fell off it would wait for ever.
# The API key travels on curl's standard input, never in an argument.
unit=@{unit}
binary=@{binary}
url=@{url}
key=@{key}

bad() {
  printf '%s\n' "$1"
  exit 1
}
now() {
  read -r up _ < /proc/uptime
  echo "${up%.*}"
}
ask() {
  path=$1
  shift
  left=$((deadline - $(now)))
  [ "$left" -gt 0 ] || left=1
  if [ -r "$key" ]; then
    printf 'header = "Authorization: Bearer %s"\n' "$(sed 's/[\\"]/\\&/g' "$key")"
  fi | curl --disable --config - --fail --silent --show-error --max-time "$left" --noproxy '*'@{curl} \
    "$@@" "$url$path"
}
number() { # of a name in JSON: its first one
  grep -o "\"$1\": *[0-9]*" | head -n 1 | tr -dc 0-9
}
listed() { # a model's name as JSON
  models=$(ask /v1/models) || bad "/v1/models: no answer"
  printf %s "$models" | grep -qF "$1" || bad "it doesn't list the model $1"
}
sized() { # where it says so; contexts that will do; the declared one; sessions at once
  props=$(ask "$1") || bad "$1: no answer"
  seen=$(printf %s "$props" | number n_ctx)
  case " $2 " in
    *" ${seen:-none} "*) ;;
    *) bad "a session gets ${seen:-no} tokens of context, $3 are declared" ;;
  esac
  seen=$(printf %s "$props" | number total_slots)
  [ "$seen" = "$4" ] || bad "it has ${seen:-no} slots, $4 are declared"
}
completes() { # the body of a request
  answer=$(ask /v1/chat/completions --header 'Content-Type: application/json' --data-raw "$1") ||
    bad "a completion fails"
  printf %s "$answer" | grep -q '"completion_tokens": *[1-9]' || bad "a completion has no token"
}
on_gpu() { # MiB of the GPU's memory that its layers take at least
  # A router's models are in processes of their own, below it.
  pids=$(systemctl show -P MainPID -- "$unit"
    cat "/sys/fs/cgroup$(systemctl show -P ControlGroup -- "$unit")/cgroup.procs" 2>/dev/null)
  start=$(systemctl show -P InvocationID -- "$unit")
  # Older builds say it in their log; newer ones say nothing unless they are told to.
  said=$(journalctl --no-pager -o cat _SYSTEMD_INVOCATION_ID="$start" 2>/dev/null |
    grep -o 'offloaded [0-9]*/[0-9]* layers to GPU' | tail -n 1)
  case $said in
    'offloaded 0/'*) bad "it computes on the processor: $said" ;;
    ?*) return ;;
  esac
  held=$(timeout 60 nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits 2>/dev/null |
    while IFS=', ' read -r of mib; do
      case $mib in *[!0-9]* | '') continue ;; esac
      ! printf '%s\n' "$pids" | grep -qx "$of" || echo "$mib"
    done)
  if [ -n "$held" ]; then
    sum=0
    for mib in $held; do sum=$((sum + mib)); done
    [ "$sum" -ge "$1" ] ||
      bad "it computes on the processor: it has $sum MiB of the GPU's memory, its layers need $1"
    return
  fi
  # nvidia-smi in a container sees no processes: then what it holds open must do.
  for pid in $pids; do
    for open in /proc/"$pid"/fd/*; do
      case $(readlink "$open") in /dev/nvidia*) return ;; esac
    done
  done
  bad "it computes on the processor: its process is on no GPU"
}

case $1 in
devices)
@{devices}
  ;;
answers)
  deadline=$(($(now) + $2))
  seen=$(readlink "/proc/$(systemctl show -P MainPID -- "$unit")/exe") || seen=
  [ "$seen" = "$binary" ] || bad "its process runs ${seen:-nothing}, not $binary"
  ask /health > /dev/null || bad "/health: no answer"
@{answers}
  ;;
esac
