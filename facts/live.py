"""What a running llama-server and an OpenCode installation answer, asked on the host itself.

Servers listen on 127.0.0.1, so their host asks them, with curl. A key is read there from its file
and reaches curl on standard input: it is in no process's arguments and never leaves the host.
Nothing is judged here: an answer may be an error, a page of a stranger, or nothing.

Upstream behaviour relied on (llama.cpp 0c1e570, ``tools/server``): ``/health`` needs no key;
``/props`` and ``/v1/models`` do; a streamed completion ends with ``timings`` and ``data: [DONE]``;
its first event may come before its first token, so each line is stamped with the time.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.claude_code import KEY as CLAUDE_KEY
from facts.opencode import COMMAND
from facts.sections import SECTION, split_sections
from facts.values import FactValue

_STATUS = "@@status "
_EXIT = "@@exit "
_NUMBERED = re.compile(r"^@@(status|exit) (\d{1,3})$")
_CURL_ERROR = re.compile(r"^curl: \(\d+\) ")
_STAMP = re.compile(r"^(\d+\.\d+) ?(.*)$", re.S)


@dataclass(frozen=True)
class Answer(FactValue):
    """What one HTTP request brought.

    + status: HTTP status, 0 where no answer came
    + body: text; of a streamed answer its lines as they came
    + error: curl's own words where it failed, else empty
    + exit_code: curl's, 127 where the host has no curl
    + seconds: when each line of a streamed answer came, counted from the request
    """

    status: int
    body: str
    error: str = ""
    exit_code: int = 0
    seconds: tuple[float, ...] = ()

    def json(self) -> Any:
        """The body as a value; None where it isn't JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


# KEY is the file's path. ask NAME CURL-ARGUMENTS...; stream likewise, with a stamp on each line.
_ASK = rf"""
use_key() {{
  key=
  [ ! -r "$1" ] || key=$(sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' \
    -e 's/[\\"]/\\&/g' "$1" | head -n 1)
}}
request() {{
  if [ -n "$key" ]; then printf 'header = "Authorization: Bearer %s"\n' "$key"; fi |
    curl --disable --config - --silent --show-error --no-buffer --globoff --noproxy '*' \
      --connect-timeout 10 --write-out '\n{_STATUS}%{{http_code}}\n' "$@" 2>&1
  echo "{_EXIT}$?"
}}
ask() {{ echo "{SECTION}$1"; shift; request "$@" | head -c 2000000 | base64 -w 0; echo; }}
stream() {{
  echo "{SECTION}$1"; shift; started=$(date +%s.%N)
  {{ echo "$started"; request "$@" | while IFS= read -r line; do
      printf '%s %s\n' "$(date +%s.%N)" "$line"
    done; }} | head -c 2000000 | base64 -w 0; echo
}}
"""


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens, and how its own host asks it there.

    + server: its name; its key is looked for in ``/etc/llama-server/<server>/api-key``
    + port, address: what it binds; 0.0.0.0 and :: are asked on loopback
    + tls: it speaks https; whose certificate it shows isn't asked here
    + socket: path of the unix socket that it binds instead; empty for none
    """

    server: str
    port: int
    address: str = "127.0.0.1"
    tls: bool = False
    socket: str = ""

    @property
    def url(self) -> str:
        """The address of its root, without a slash at the end."""
        if self.socket:
            return "http://localhost"
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{url_host(self.address)}:{int(self.port)}"

    @property
    def curl(self) -> str:
        """What curl needs beside the address, as words of a shell with a blank behind each."""
        if self.socket:
            return f"--unix-socket {shlex.quote(self.socket)} "
        return "--insecure " if self.tls else ""


@dataclass(frozen=True)
class LiveServerState(FactValue):
    """One server's answers; None for what wasn't asked because the server isn't healthy.

    + own: of a router, the properties of the one model that was asked for
    + certificate: an answer to a client that checks the certificate; None without TLS
    """

    health: Answer
    props: Answer | None = None
    models: Answer | None = None
    completion: Answer | None = None
    own: Answer | None = None
    certificate: Answer | None = None


class LiveServer(FactBase[LiveServerState]):
    """Health, properties, models and one streamed completion of a llama-server.

    + server, port, address, tls, socket: as in :class:`Endpoint`
    + model: alias that the completion asks for
    + tokens: at most this many are generated
    + timeout: seconds that the completion may take
    + router: seconds that loading the model may take where the server has several; 0 where not
    + certificate, known_as: with TLS, its file and the name, or address, by which clients ask
    """

    def command(
        self,
        server: str,
        port: int,
        model: str,
        address: str = "127.0.0.1",
        tokens: int = 32,
        timeout: int = 120,
        tls: bool = False,
        socket: str = "",
        router: int = 0,
        certificate: str = "",
        known_as: str = "",
    ) -> str:
        endpoint = Endpoint(server, port, address, tls, socket)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Say hello in one short sentence."}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        script = (
            f"{_ASK}{identity_script(endpoint)}"
            f"{_certificate_script(endpoint, certificate, known_as)}"
            f"{_own_script(endpoint, model, router)}"
            f"stream completion --max-time {int(timeout)} {endpoint.curl}"
            f"--header 'Content-Type: application/json' --data-raw {shlex.quote(json.dumps(body))} "
            f"{shlex.quote(endpoint.url + '/v1/chat/completions')}\n"
        )
        return f"sh -c {shlex.quote(script)}"

    @staticmethod
    def default() -> LiveServerState:
        return LiveServerState(Answer(0, "", "the host said nothing"))

    def process(self, output: list[str]) -> LiveServerState:
        return parse_live_server(output)


ASK = _ASK
"""Shell functions that the scripts below use; put before them once."""


def _own_script(endpoint: Endpoint, model: str, router: int) -> str:
    """Shell that asks a router for the properties of a model, which loads it."""
    if not router:
        return ""
    url = shlex.quote(f"{endpoint.url}/props?model={quote(model)}")
    return f"ask own --max-time {int(router)} {endpoint.curl}{url}\n"


# $1 is the certificate's file, $2 what curl connects to, $3 the address. What the host trusts,
# and the certificate itself, which may be nobody's but the administrator's.
_CERTIFICATE = r"""
certificate() {
  trusted=$(mktemp) || return 0
  cat /etc/ssl/certs/ca-certificates.crt "$1" > "$trusted" 2>/dev/null
  ask certificate --max-time 10 --output /dev/null --cacert "$trusted" --connect-to "$2" "$3"
  rm -f -- "$trusted"
}
"""


def _certificate_script(endpoint: Endpoint, certificate: str, name: str) -> str:
    """Shell that asks as a client does that checks certificates."""
    if not certificate:
        return ""
    place = f"::{url_host(endpoint.address)}:{int(endpoint.port)}"
    url = f"https://{name or url_host(endpoint.address)}:{int(endpoint.port)}/health"
    return f"{_CERTIFICATE}certificate {shlex.join((certificate, place, url))}\n"


def identity_script(endpoint: Endpoint) -> str:
    """Shell that asks for health, and a healthy server for its properties and models.

    Ends the shell where the server isn't healthy.
    """
    base, curl = endpoint.url, endpoint.curl
    return (
        f"use_key {shlex.quote(f'/etc/llama-server/{endpoint.server}/api-key')}\n"
        f"health=$(ask health --max-time 10 {curl}{shlex.quote(base + '/health')})\n"
        'printf "%s\\n" "$health"\n'
        f"printf %s \"$health\" | tail -n 1 | base64 -d | grep -q '^{_STATUS}200$' || exit 0\n"
        f"ask props --max-time 10 {curl}{shlex.quote(base + '/props')}\n"
        f"ask models --max-time 10 {curl}{shlex.quote(base + '/v1/models')}\n"
    )


def url_host(address: str) -> str:
    """The address at which a server's own host asks it, as a URL writes it."""
    if address in ("0.0.0.0", ""):
        return "127.0.0.1"
    if address == "::":
        return "[::1]"
    return f"[{address}]" if ":" in address else address


def parse_live_server(output: list[str]) -> LiveServerState:
    """The command's lines as answers; FactProcessError for output that makes no sense."""
    sections = split_sections(output)
    if "health" not in sections:
        raise FactProcessError(f"cannot make sense of the answer {output[:1]!r}")
    asked = {
        name: parse_answer(sections[name])
        for name in ("health", "props", "models", "own", "certificate")
        if name in sections
    }
    stream = parse_stream(sections["completion"]) if "completion" in sections else None
    return LiveServerState(**asked, completion=stream)


def parse_answer(lines: Sequence[str]) -> Answer:
    """One section of :data:`_ASK`'s ``ask``."""
    return _answer(_decode(lines).split("\n"), ())


def parse_stream(lines: Sequence[str]) -> Answer:
    """One section of ``stream``: lines with their times."""
    stamped = [match for match in map(_STAMP.match, _decode(lines).split("\n")) if match]
    if not stamped:
        return Answer(0, "", "the host said nothing")
    started = float(stamped[0][1])
    rows = [(float(match[1]) - started, match[2]) for match in stamped[1:]]
    return _answer([text for _, text in rows], [seconds for seconds, _ in rows])


def _decode(lines: Sequence[str]) -> str:
    try:
        return base64.b64decode("".join(lines), validate=True).decode(errors="replace")
    except ValueError as error:
        raise FactProcessError(f"cannot read an answer: {error}") from error


def _answer(lines: Sequence[str], seconds: Sequence[float]) -> Answer:
    status, exit_code, error = 0, 0, ""
    body: list[tuple[str, float]] = []
    for index, line in enumerate(lines):
        if match := _NUMBERED.match(line):
            # Ours come last, so that a body that looks like them doesn't count.
            status = int(match[2]) if match[1] == "status" else status
            exit_code = int(match[2]) if match[1] == "exit" else exit_code
        elif _CURL_ERROR.match(line):
            error = line
        elif "curl: not found" in line or "curl: command not found" in line:
            error = "curl is not installed"
        else:
            body.append((line, seconds[index] if seconds else 0.0))
    return Answer(
        status=status,
        body="\n".join(line for line, _ in body).removesuffix("\n"),
        error=error,
        exit_code=exit_code,
        seconds=tuple(second for _, second in body) if seconds else (),
    )


@dataclass(frozen=True)
class LiveUser(FactValue):
    """OpenCode as one user starts it.

    + exists: whether the host has the account
    + exit_code: of ``opencode debug config``, 124 after 60 s, 127 where there is no OpenCode
    + config: what it printed: the configuration as it resolves, secrets masked by OpenCode
    + error: what it said on standard error
    + models: each provider's answer to ``/models``, by provider id
    """

    name: str
    exists: bool = True
    exit_code: int = 0
    config: str = ""
    error: str = ""
    models: Mapping[str, Answer] = field(default_factory=dict)


# Run by the user. OpenCode's own data goes to a folder that is thrown away. Arguments: id URL ...
_AS_USER = f"""{_ASK}
cd / && scratch=$(mktemp -d) || exit 0
trap 'rm -rf -- "$scratch"' EXIT
echo "{SECTION}config"
{{ XDG_DATA_HOME=$scratch/data XDG_STATE_HOME=$scratch/state XDG_CACHE_HOME=$scratch/cache \\
  timeout 60 {COMMAND} debug config </dev/null 2>"$scratch/error"
  printf '\\n{_EXIT}%s\\n' $?; }} | head -c 2000000 | base64 -w 0; echo
echo "{SECTION}error"; head -c 20000 "$scratch/error" | base64 -w 0; echo
while [ $# -gt 1 ]; do
  use_key "$HOME/.config/opencode/llamaherd/$1.key"
  ask "models $1" --max-time 10 "$2/models"
  shift 2
done
"""

_USER = "@@user "

# Run by the user, with what the settings say. Arguments: URL BODY SECONDS
_MESSAGES_AS_USER = f"""{_ASK}
cd / && use_key "$HOME/{CLAUDE_KEY}"
ask messages --max-time "$3" --header 'anthropic-version: 2023-06-01' \\
  --header 'Content-Type: application/json' --data-raw "$2" "$1/v1/messages"
"""


class LiveMessages(FactBase[Mapping[str, Answer]]):
    """A short message to a server's Anthropic endpoint, asked by each user with the user's key.

    + users: account names; one that the host lacks is absent from the answer
    + base_url: without ``/v1``
    + timeout: seconds that each may take
    """

    def command(self, users: Sequence[str], base_url: str, model: str, timeout: int = 120) -> str:
        body = {
            "model": model,
            "max_tokens": 16,
            "messages": [{"role": "user", "content": "Say hello in one short sentence."}],
        }
        words = shlex.join([base_url, json.dumps(body), str(int(timeout))])
        script = (
            f"for user in {shlex.join(users)}; do\n"
            'passwd=$(getent passwd -- "$user") || continue\n'
            f'echo "{_USER}$user"\n'
            'home=$(printf %s "$passwd" | cut -d : -f 6)\n'
            'runuser -u "$user" -- env -i HOME="$home" PATH=/usr/bin:/bin '
            f"sh -c {shlex.quote(_MESSAGES_AS_USER)} sh {words}\ndone\ntrue"
        )
        return f"sh -c {shlex.quote(script)}"

    @staticmethod
    def default() -> Mapping[str, Answer]:
        return {}

    def process(self, output: list[str]) -> Mapping[str, Answer]:
        return {
            name: parse_answer(split_sections(lines).get("messages", []))
            for name, lines in _by_user(output)
        }


class LiveOpenCode(FactBase[Sequence[LiveUser]]):
    """How OpenCode's configuration resolves for users, and whether its servers answer them.

    + users: account names
    + providers: base URL by provider id
    + offline: without a network, where the host can do that
    """

    def command(
        self, users: Sequence[str], providers: Mapping[str, str], offline: bool = False
    ) -> str:
        pairs = [word for pair in providers.items() for word in pair]
        alone = "alone=; unshare --net true 2>/dev/null && alone='unshare --net --'\n"
        script = (
            f"{alone if offline else 'alone='}\n"
            f"for user in {shlex.join(users)}; do\n"
            f'echo "{_USER}$user"\n'
            'passwd=$(getent passwd -- "$user") || { echo absent; continue; }\n'
            'home=$(printf %s "$passwd" | cut -d : -f 6)\n'
            '$alone runuser -u "$user" -- env -i HOME="$home" USER="$user" LOGNAME="$user" '
            f"TERM=dumb PATH=/usr/local/bin:/usr/bin:/bin sh -c {shlex.quote(_AS_USER)} sh "
            f"{shlex.join(pairs)}\ndone\ntrue"
        )
        return f"sh -c {shlex.quote(script)}"

    @staticmethod
    def default() -> Sequence[LiveUser]:
        return ()

    def process(self, output: list[str]) -> Sequence[LiveUser]:
        return parse_live_opencode(output)


def parse_live_opencode(output: Sequence[str]) -> tuple[LiveUser, ...]:
    """The command's lines as users; FactProcessError for output that makes no sense."""
    return tuple(_parse_user(name, lines) for name, lines in _by_user(output))


def _by_user(output: Sequence[str]) -> list[tuple[str, list[str]]]:
    users: list[tuple[str, list[str]]] = []
    for line in output:
        if line.startswith(_USER):
            users.append((line.removeprefix(_USER), []))
        elif users:
            users[-1][1].append(line)
    return users


def _parse_user(name: str, lines: list[str]) -> LiveUser:
    if lines[:1] == ["absent"]:
        return LiveUser(name, exists=False)
    sections = split_sections(lines)
    config, _, code = _decode(sections.get("config", [])).rpartition(f"\n{_EXIT}")
    return LiveUser(
        name=name,
        exit_code=int(code) if code.strip().isdigit() else 126,
        config=config,
        error=_decode(sections.get("error", [])),
        models={
            section.removeprefix("models "): parse_answer(body)
            for section, body in sections.items()
            if section.startswith("models ")
        },
    )
