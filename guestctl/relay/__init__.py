"""The relay: one connection to the guest API, and any number of readers.

`upstream` listens, `log` stores every event before `hub` passes it to the readers, and `sends` sends for them on the
same socket. `relay` puts these together for each session. `http_api` serves readers over HTTP; servers of other
protocols use `Relay` in the same way. `relay_reader` is the client side, for `listen --relay`.
"""
