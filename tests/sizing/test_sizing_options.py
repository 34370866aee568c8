"""llama-server's own options, and sizes as people write them."""

from __future__ import annotations

import pytest

from inventories.sizing.dimensions import SizingError
from inventories.sizing.estimate import ALL_LAYERS, GIB, MIB, Load
from inventories.sizing.options import gpu_sizes, load_of


@pytest.mark.parametrize(
    ("arguments", "load"),
    [
        ([], Load(8192, 2)),
        (["--metrics"], Load(8192, 2)),
        (["--cache-type-k", "q8_0", "-ctv", "q5_1"], Load(8192, 2, "q8_0", "q5_1")),
        (["--cache-type-k=q8_0"], Load(8192, 2, "q8_0")),
        (["--flash-attn", "on", "-ngl", "all", "--fit=off", "-ctk", "q8_0"], Load(8192, 2, "q8_0")),
        (["--n-cpu-moe", "12"], Load(8192, 2, cpu_moe=12)),
        (["-cmoe"], Load(8192, 2, cpu_moe=ALL_LAYERS)),
        (["-kvu", "--swa-full", "-ub", "1024"], Load(8192, 2, "f16", "f16", True, 1024, 0, True)),
    ],
)
def test_options_that_change_memory_are_understood(arguments: list[str], load: Load) -> None:
    assert load_of(8192, 2, arguments) == load


@pytest.mark.parametrize(
    "arguments",
    [
        ["-ngl", "20"],
        ["--override-tensor", "exps=CPU"],
        ["--flash-attn", "off"],
        ["--n-gpu-layers", "all", "--fit-target", "0"],
        ["-fa"],
        ["-ctk", "nonsense"],
        ["-ub"],
    ],
)
def test_what_is_placed_by_hand_is_left_alone(arguments: list[str]) -> None:
    assert load_of(8192, 2, arguments) is None


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("24G", (24 * GIB,)),
        ("24GiB", (24 * GIB,)),
        ("24564M", (24564 * MIB,)),
        ("2x24G", (24 * GIB, 24 * GIB)),
        ("11.5g", (int(11.5 * GIB),)),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, sizes: tuple[int, ...]) -> None:
    assert gpu_sizes(text) == sizes


@pytest.mark.parametrize("text", ["24", "0G", "x24G", "-1G", "24T", "0x24G", "", "2x", "²G"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SizingError, match="write 24G"):
        gpu_sizes(text)
