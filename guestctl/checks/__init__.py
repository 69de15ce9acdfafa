"""Conversation tests: scripts are read, run as guests and reported.

Knows, module by module: `script_keys` the keys of a script, `reader` how a script is read, `script` a
script as values, `expectation` and `timeline` which reply matches, `scenario` one conversation over a
`Client`, `runner` many of them, `service` the service under test, `outcomes` the results, and
`reports` the report formats. Must not know: command-line arguments, the exit of the process, any
API's wire.
"""
