"""Measure what guestctl costs. Each figure is compared with a plain script that does the same in the same run.

    python -m tests.bench [--json FILE] [--scale smoke|usual|long] [NAME...]

Knows: the commands and the service as processes, and scripts that do the same without guestctl (`bare/`).
Must not know: the internals of guestctl, except to fill a state database or a service first.
"""
