"""What archives may hold: names and links that stay in the folder that they are unpacked into.

Shell functions for the scripts of jobs, which unpack as root. GNU tar alone mends some of it
without a word (it cuts a leading ``/`` off, and creates links last), Info-ZIP's unzip likewise, but
neither looks at a link that an earlier archive left, nor at what is done with a link afterwards.
So an archive that names a place outside of its folder is refused before anything is unpacked, and
what came out of it is looked at before anything else touches it.

Upstream behaviour relied on: ``tar --list`` prints a newline in a name as ``\\n``; without
``--same-permissions``, which is root's default, tar keeps to the umask and drops setuid;
``unzip -Z1`` prints a control character as ``^J``; realpath (coreutils 9.1) follows ``a -> a/`` for
ever, with more memory each time, so that it is given a few seconds.
"""

from __future__ import annotations

# tar_inside ARCHIVE, zip_inside ARCHIVE: refuse one with a name that leads out of its folder.
# tree_inside FOLDER: refuse what was unpacked there if it holds anything but files, folders, and
# links to files in it. no_links FOLDER: refuse any link. The script ends there, with status 1.
ARCHIVE_FUNCTIONS = r"""
refuse_archive() { printf '%s: refused: %s\n' "$1" "$2" >&2; exit 1; }

names_inside() {
  outside=$(grep -m 1 -E '^/|(^|[/\])\.\.([/\]|$)') || return 0
  refuse_archive "$1" "it holds the name $outside, which leads out of its folder"
}

tar_inside() {
  tar --list --absolute-names --file "$1" > "$1.names"
  names_inside "$1" < "$1.names"
  rm -f -- "$1.names"
}

zip_inside() {
  unzip -Z1 "$1" > "$1.names"
  names_inside "$1" < "$1.names"
  rm -f -- "$1.names"
}

no_links() {
  odd=$(find "$1" -type l -print | head -n 1)
  [ -z "$odd" ] || refuse_archive "$odd" 'it is a link'
}

tree_inside() {
  odd=$(find "$1" ! -type f ! -type d ! -type l -print | head -n 1)
  [ -z "$odd" ] || refuse_archive "$odd" 'it is neither a file nor a folder nor a link'
  odd=$(find "$1" ! -type l -perm /7000 -print | head -n 1)
  [ -z "$odd" ] || refuse_archive "$odd" 'it would run with another account'\''s rights'
  odd=$(find "$1" -type l -exec sh -c 'root=$(realpath -- "$0"); for link; do
    case $(timeout 5 realpath -m -- "$link") in "$root"/*) ;; *) printf "%s\n" "$link"; break;; esac
  done' "$1" {} + | head -n 1)
  [ -z "$odd" ] || refuse_archive "$odd" 'it is a link that leads out of its folder'
  odd=$(find "$1" -type f -links +1 -printf '%i %n\n' | sort | uniq -c |
    while read -r found inode links; do [ "$found" = "$links" ] || echo "$inode"; done)
  [ -z "$odd" ] || refuse_archive "$1" 'a file in it is linked from outside'
}
"""
