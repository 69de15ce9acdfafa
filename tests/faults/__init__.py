"""The fault harness: clients among faults, and the sandbox's log to hold them to (reliability.md §5).

`python -m tests.faults --schedules 2000 --seed 1` runs the long form.
"""
