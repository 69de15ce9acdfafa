"""The committed code of the gRPC service is what the compiler makes of its definition."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import stubs

pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed (CONTRIBUTING.md has the command)")


def test_the_generated_code_is_current(tmp_path: Path) -> None:
    assert stubs.main([str(tmp_path)]) == 0
    folder = Path(stubs.DEFINITION).parent
    for name in stubs.GENERATED:
        assert (tmp_path / folder / name).read_bytes() == (stubs.ROOT / folder / name).read_bytes(), (
            f"run {Path(sys.executable).name} -m tools.stubs"
        )
