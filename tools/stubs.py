"""Generates the Python code of the relay's gRPC service: `python -m tools.stubs`.

Knows: how to call the compiler of protocol buffers, which tests/grpc/requirements.txt pins. Must not know: what the
service does.

Without arguments it writes into the package. Another directory as the argument leaves the package as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEFINITION = "guestctl/relay/proto/chat_stream.proto"
#: What is generated, next to the definition.
GENERATED = ("chat_stream_pb2.py", "chat_stream_pb2.pyi", "chat_stream_pb2_grpc.py")


def main(arguments: list[str]) -> int:
    """Generate the code. Return the exit code."""
    from grpc_tools import protoc

    target = arguments[0] if arguments else str(ROOT)
    options = [f"--{kind}={target}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    return int(protoc.main(["protoc", f"-I{ROOT}", f"-I{protoc_includes()}", *options, str(ROOT / DEFINITION)]))


def protoc_includes() -> Path:
    """Return the directory with the definitions that belong to protocol buffers themselves."""
    import grpc_tools

    return Path(str(grpc_tools.__file__)).parent / "_proto"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
