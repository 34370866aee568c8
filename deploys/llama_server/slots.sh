@{mark}: the next converge undoes changes here.
# slots save: asks the server to write each session's K/V cache; slots restore: to read it again.
# Takes @{seconds} s at most and leaves out what it can't have: a session then only starts slowly.
# The API key travels on curl's standard input, never in an argument. Root runs this, beside a process
# that owns the folder and its own environment: neither is trusted, the files are moved with the
# server's rights, and curl reads no .curlrc (--disable, which has to come first).
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
  fi | curl --disable --config - --fail --silent --max-time "$left" --noproxy '*'@{curl} \
    --output /dev/null --header 'Content-Type: application/json' \
    --data "{\"filename\": \"$2\"}" "$url/slots/$1?action=$action"
}

mine() { setpriv --reuid=@{account} --regid=@{account} --clear-groups -- "$@@"; }

kill -0 "$MAINPID" 2>/dev/null || exit 0
# A cache means something only to a process like the one that it is of: not to what the unit,
# which may be a newer one by now, would start.
of=$(tr '\0' '\n' < "/proc/$MAINPID/environ" | sed -n 's/^@{variable}=//p')
case $of in '' | *[!0-9a-f]*) exit 0 ;; esac
[ "$action" = restore ] || mine rm -f -- "$folder"/slot-* "$folder"/restoring-*
slot=0
while [ "$slot" -lt @{slots} ]; do
  case $action in
    save)
      new=slot-$slot.new
      ask "$slot" "$new" && mine mv -fT -- "$folder/$new" \
        "$folder/slot-$slot.$of.$(mine stat -c %s -- "$folder/$new")" ;;
    restore)
      for path in "$folder/slot-$slot.$of".*; do
        # A file that was cut off would end the server; so might one that is damaged otherwise:
        # it is put away first, for the next start to find none.
        [ "$(mine stat -c %s -- "$path" 2>/dev/null)" = "${path##*.}" ] || continue
        mine mv -fT -- "$path" "$folder/restoring-$slot" && ask "$slot" "restoring-$slot"
        mine rm -f -- "$folder/restoring-$slot"
      done ;;
  esac
  slot=$((slot + 1))
done
exit 0
