"""The command line: an ordinary user of `guestctl.Client`.

`registry` lists the commands, `main` is the one boundary, `options` what every command accepts,
`invocation` what a command may reach. One module a noun or group of verbs. Rendering and writing
are not here: see `views` and `output`.
"""
