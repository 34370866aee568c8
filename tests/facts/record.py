"""Record what a host answers to facts, as cases: see :mod:`recorded_cases`.

    record.py QUESTIONS CASE HOST SOURCE -- ssh -F .lab/box/ssh_config ops@llamaherd-box sudo -n

QUESTIONS is a JSON file: arguments by the fact's folder. The words after ``--`` are put before
``sh -c COMMAND``. Look at what was written before it is committed: what the value says must be so.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from pyinfra.api.exceptions import FactProcessError
from recorded_cases import ROOT, command, fact_classes, plain, scrub


def main(arguments: list[str]) -> int:
    """0; 1 where a command failed, which no fact's may."""
    (questions, case, host, source), place = arguments[:4], arguments[arguments.index("--") + 1 :]
    failed = 0
    for folder, asked in json.loads(Path(questions).read_text(encoding="utf-8")).items():
        fact = fact_classes()[folder]
        words = [*place, f"sh -c {shlex.quote(command(fact, asked))}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{folder}: exit status {done.returncode}: {done.stderr}", file=sys.stderr)
            failed = 1
        output = scrub(done.stdout)
        record = {"host": host, "source": source, "arguments": asked, "output": output}
        try:
            # What pyinfra answers with where a command prints nothing.
            record["value"] = plain(fact().process(output) if output else fact.default())
        except FactProcessError as error:
            record["error"] = str(error)
        path = ROOT / folder / "cases" / f"{case}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
