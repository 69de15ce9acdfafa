"""The command line, a client of `guestctl.Client` like any other program.

`main` turns arguments into an exit code, `registry` lists the commands, `parameters` and `options` declare their
parameters, `application` makes the Typer application of these declarations, and `invocation` gives a command what it
works with. `commands/` has one module per command or group. Rendering and writing belong to `guestctl.output`.
"""
