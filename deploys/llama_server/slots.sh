@{mark}: the next converge undoes changes here.
# slots save: asks the server to write each session's K/V cache; slots restore: to read it again.
# Takes @{seconds} s at most and leaves out what it can't have: a session then only starts slowly.
# The API key travels on curl's standard input, never in an argument.
url=@{url}
key=@{key}
folder=@{folder}
action=$1
deadline=$(($(date +%s) + @{seconds}))

ask() {
  left=$((deadline - $(date +%s)))
  [ "$left" -gt 0 ] || return 1
  if [ -r "$key" ]; then
    printf 'header = "Authorization: Bearer %s"\n' "$(sed 's/[\\"]/\\&/g' "$key")"
  fi | curl --config - --fail --silent --max-time "$left" --noproxy '*'@{curl} \
    --output /dev/null --header 'Content-Type: application/json' \
    --data "{\"filename\": \"$2\"}" "$url/slots/$1?action=$action"
}

kill -0 "$MAINPID" 2>/dev/null || exit 0
# A cache means something only to a process like the one that it is of: not to what the unit,
# which may be a newer one by now, would start.
of=$(tr '\0' '\n' < "/proc/$MAINPID/environ" | sed -n 's/^@{variable}=//p')
[ -n "$of" ] || exit 0
[ "$action" = restore ] || rm -f -- "$folder"/slot-*
slot=0
while [ "$slot" -lt @{slots} ]; do
  file=slot-$slot.$of
  case $action in
    save) ask "$slot" "$file.new" && mv -fT -- "$folder/$file.new" "$folder/$file" ;;
    restore) [ ! -f "$folder/$file" ] || ask "$slot" "$file" ;;
  esac
  slot=$((slot + 1))
done
exit 0
