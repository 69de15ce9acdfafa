"""Conversations as tests: scripts read and validated whole, run as guests of their own, and reported.

Knows, module by module: `keys` what a script may say, `script` how one is read, `expectation` and
`timeline` when a reply is the awaited one, `scenario` one conversation over a `Client`, `runner`
many of them, `results` what came out, and one module for each report. Must not know: argv, exit of
the process, any API's wire.
"""
