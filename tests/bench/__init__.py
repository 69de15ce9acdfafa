"""What guestctl costs, each figure beside the same thing done bare, in the same run on the same machine.

    python -m tests.bench [--json FILE] [--scale smoke|usual|long] [NAME...]

Knows: the commands and the service as processes, and scripts that do the same without us (`bare/`).
Must not know: anything inside guestctl, except where a store or a service has to be filled first.
"""
