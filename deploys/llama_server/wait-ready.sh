@{mark}: the next converge undoes changes here.
# Ends when the server is healthy and lists its model; fails when the server ends before that.
# The API key travels on curl's standard input, never in an argument. Root runs this with the server's
# home: curl must not read a .curlrc there (--disable, which has to come first).
url=@{url}
key=@{key}

ask() {
  if [ -r "$key" ]; then
    printf 'header = "Authorization: Bearer %s"\n' "$(sed 's/[\\"]/\\&/g' "$key")"
  fi | curl --disable --config - --fail --silent --max-time 10 --noproxy '*'@{curl} "$url$1"
}

while kill -0 "$MAINPID" 2>/dev/null; do
  if ask /health >/dev/null && @{listed}; then exit 0; fi
  sleep 0.5
done
echo "llama-server ended before it answered" >&2
exit 1
