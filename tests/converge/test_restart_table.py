"""Restart from reality, for every component: what can go stale under a process, and who proves it.

A cell is either a test that brings the state about, or the reason why there is nothing to restart.
"""

from __future__ import annotations

import ast

import pytest
from messages import ROOT

from llamaherd.drift.report import COMPONENTS

CAUSES = ("configuration", "program", "unit", "drop-in", "driver")
PLAN = "tests/deploys/test_llama_server_plan.py::"
DRIFT = "tests/converge/test_drift_lab.py::"
REBOOT = "tests/cuda/test_cuda_driver.py::test_when_a_reboot_is_needed_and_when_it_was_in_vain"
TIMER = "tests/drift_timer/test_drift_timer_plan.py::"
CHECK = "tests/drift/test_check.py::"
STALE = f"{PLAN}test_a_process_that_is_not_what_is_declared_is_restarted"
MENDED = f"{TIMER}test_what_is_off_is_mended_and_nothing_else"
DAMAGE = f"{CHECK}test_damage_is_told_once_on_its_plane_and_nothing_else_is"

NOTHING_RUNS = "no process of it outlives its job"
OF_USERS = "users start it, and end it; what is new counts from the next start on"
ONE_SHOT = "each check is a process of its own, started anew"

TABLE = {
    # Each cause, for the one component with a process that goes on.
    "llama_server": {
        "configuration": STALE,
        "program": STALE,
        "unit": STALE,
        "drop-in": f"{DRIFT}test_each_tampered_state_is_told_and_a_converge_mends_it",
        "driver": STALE,
    },
    "drift_timer": {
        "configuration": f"{TIMER}test_another_schedule_is_checked_by_systemd_and_takes_effect",
        "program": ONE_SHOT,
        "unit": MENDED,
        "drop-in": MENDED,
        "driver": "it uses no GPU",
    },
    "driver": {
        "configuration": REBOOT,
        "program": DAMAGE,
        "unit": "it has no unit of ours",
        "drop-in": "it has no unit of ours",
        "driver": f"{CHECK}test_a_driver_upgraded_under_its_module_is_told_with_both_remedies",
    },
    # A toolkit replaced under a server shows in the server's process.
    "cuda": dict.fromkeys(CAUSES, NOTHING_RUNS) | {"program": STALE},
    # sccache's server ends with the build that started it; ccache has none.
    "llama_cpp": dict.fromkeys(CAUSES, NOTHING_RUNS),
    "models": dict.fromkeys(CAUSES, NOTHING_RUNS) | {"program": STALE},
    "preflight": dict.fromkeys(CAUSES, NOTHING_RUNS),
    "packages": dict.fromkeys(CAUSES, NOTHING_RUNS),
    "opencode": dict.fromkeys(CAUSES, OF_USERS),
    "claude_code": dict.fromkeys(CAUSES, OF_USERS),
}


def test_every_component_has_an_answer_to_every_cause() -> None:
    assert set(TABLE) == set(COMPONENTS)
    for component, answers in TABLE.items():
        assert tuple(sorted(answers)) == tuple(sorted(CAUSES)), component
        assert all(answers.values()), component


@pytest.mark.parametrize(
    "named", sorted({cell for row in TABLE.values() for cell in row.values() if "::" in cell})
)
def test_a_test_that_the_table_names_is_there(named: str) -> None:
    file, _, name = named.partition("::")
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
