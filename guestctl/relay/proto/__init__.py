"""The service `guestctl.relay.v1.ChatStream`: its definition, and the code that `python -m tools.stubs` makes of it.

A reader in Python imports `chat_stream_pb2` and `chat_stream_pb2_grpc`. Both need the extra `guestctl[grpc]`.
"""
