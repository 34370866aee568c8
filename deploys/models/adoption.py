"""A model file that another program has on the host already: taken over instead of fetched.

Looked for in the places of :mod:`facts.model_caches`: by the name that holds its SHA-256 where a
cache has such names, else by its exact size. What is taken is verified like what is fetched.

A hard link is one file under two names: whoever owns it may rewrite what a server has mapped, and
our mode would become its mode. So there is one only of a file that root owns, that nobody else may
write and everybody may read; any other is copied, which on file systems that can share blocks
(Btrfs, XFS) costs neither time nor space. The other program's file is never changed or removed:
a link is given up, not written to.
"""

from __future__ import annotations

from facts.model_caches import MODEL_CACHES, cache_functions

FOUND = "found in "
"""How the line of a job's log begins that tells of a file that was taken over."""

TAKEN = "took "
"""How the line begins that tells that it was right."""

SEARCH_SECONDS = 60
"""A cache that takes longer to look through (a network file system that hangs) is left."""


def adoption_functions(root: str = "") -> str:
    """The function ``elsewhere`` of :func:`deploys.common.downloads.fetch_functions`.

    + root: as of :func:`facts.model_caches.cache_functions`
    """
    return cache_functions(root) + _candidates() + _titles() + _ELSEWHERE


def _candidates() -> str:
    """``candidates SIZE SHA256``: source, a tab, path of what may be the file, the likeliest first.

    Never through a symbolic link: the hub's snapshots are links to its blobs.
    """
    named = "\n".join(
        f'    {cache.source}) for file in "$folder"/{cache.blobs}; do\n'
        '      [ ! -f "$file" ] || [ -L "$file" ] || [ "$(partial "$file")" != "$1" ] ||\n'
        '        printf \'%s\\t%s\\n\' "$source" "$file"\n    done ;;'
        for cache in MODEL_CACHES
        if cache.blobs
    )
    depths = {cache.source: cache.depth for cache in MODEL_CACHES}
    sized = "\n".join(f"    {source}) depth={depth} ;;" for source, depth in depths.items())
    return f"""
candidates() {{
  sha256=$2
  model_caches > ./caches
  while IFS="$tab" read -r source folder; do
    case $source in
{named}
    esac
  done < ./caches
  while IFS="$tab" read -r source folder; do
    case $source in
{sized}
    esac
    timeout {SEARCH_SECONDS} find "$folder" -maxdepth $depth -type f -size "$1c" \\
      ! -name "$2" ! -name "sha256-$2" -printf "$source\\t%p\\n" 2>/dev/null || :
  done < ./caches
  rm -f -- ./caches
}}
"""


def _titles() -> str:
    cases = {cache.source: cache.title for cache in MODEL_CACHES}
    lines = "\n".join(f'    {source}) echo "{title}" ;;' for source, title in cases.items())
    return f"title() {{\n  case $1 in\n{lines}\n  esac\n}}\n"


_ELSEWHERE = rf"""
tab=$(printf '\t')
elsewhere() {{
  candidates "$2" "$3" > ./candidates
  taken=no
  while [ $taken = no ] && IFS="$tab" read -r source file; do
    [ -f "$file" ] && [ ! -L "$file" ] && [ "$(partial "$file")" = "$2" ] || continue
    echo "{FOUND}$(title "$source"): $file"
    rm -f -- "$1.part"
    if link "$file" "$1.part"; then how=linked; follow "$1.part"
    else how=copied; copy "$file" "$1.part" || continue; fi
    accept "$1.part" "$1" "$2" "$3" || continue
    taken=yes
    echo "{TAKEN}${{1##*/}} from $(title "$source") ($how): $file"
  done < ./candidates
  rm -f -- ./candidates
  [ $taken = yes ]
}}

# link FILE PART: PART is another name of FILE; 1 where that can't or mustn't be. What counts is
# what the name of ours leads to: the other one may be somebody else's to change.
link() {{
  if linkable "$1" && ln -- "$1" "$2" 2>/dev/null && linkable "$2"; then return; fi
  rm -f -- "$2"; return 1
}}

# linkable FILE: root's, written by nobody else, readable to everybody. (Where a file has an access
# control list, the group's digit is the most that the list gives anybody.)
linkable() {{
  [ "$(stat -c '%F %u' -- "$1" 2>/dev/null)" = "regular file 0" ] || return 1
  case $(stat -c %a -- "$1") in *[0145][45]) ;; *) return 1 ;; esac
}}

# copy FILE PART: PART, followed, gets the bytes of FILE, or shares them.
copy() {{
  : > "$2"; chmod 600 -- "$2"
  follow "$2"
  if cp --no-dereference --reflink=auto -- "$1" "$2"; then return; fi
  hashed "$2"; rm -f -- "$2"; return 1
}}
"""
