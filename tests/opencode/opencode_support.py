"""Settings and recordings that the OpenCode tests share."""

from __future__ import annotations

from pathlib import Path

from inventories.settings import (
    Artifact,
    OpenCodeModel,
    OpenCodeProvider,
    OpenCodeSettings,
    SecretReference,
)

RECORDED = Path(__file__).parent / "recorded"
KEY = ".config/opencode/llamaherd/coder.key"
ARTIFACT = Artifact(
    "opencode-linux-x64-1.18.33.tgz",
    60275143,
    "149a676b59224b196626abda2fdbd34c8329ac326b57c4891ba3de446f3ca3c1",
    url="https://mirror.example/opencode.tgz",
)
SETTINGS = OpenCodeSettings(
    version="1.18.33",
    artifacts={"x86_64": ARTIFACT},
    users=("dev",),
    providers=(
        OpenCodeProvider(
            "coder",
            "llama-server (local)",
            "opencode/coder",
            "http://127.0.0.1:8888/v1",
            (OpenCodeModel("smollm2", "SmolLM2", 8192, 2048),),
            SecretReference(env="CODER_KEY"),
        ),
    ),
    default="coder",
)
