"""Scripts in the form of the web-messaging tester, and the bot for which they were written."""

from __future__ import annotations

#: A script of a user of the tester: its config, its three keys, and `No` as a text.
PASSING = """\
config:
  deploymentId: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx
  region: xxxx.pure.cloud
scenarios:
  "Takes the survey":
    - say: hello
    - waitForReplyContaining: MAY WE ask a question?
    - say: Yes
    - waitForReplyMatching: Thanks! On to question [0-9]+[\\.]+
  "Leaves the survey":
    - say: hello
    - waitForReplyContaining: May we ask a question?
    - say: No
    - waitForReplyContaining: Goodbye
  "Is not understood":
    - say: hello
    - waitForReplyContaining: May we ask a question?
    - say: Perhaps
    - waitForReplyContaining: Please answer with either 'yes' or 'no'
    - waitForReplyContaining: May we ask a question?
"""

FAILING = """\
config:
  deploymentId: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx
  region: xxxx.pure.cloud
scenarios:
  "Fails on a text":
    - say: hello
    - waitForReplyContaining: nothing of the kind
  "Fails on a pattern":
    - say: hello
    - waitForReplyMatching: question [0-9]+
"""

BOT = """\
rules:
  - equals: hello
    reply: May we ask a question?
  - equals: "yes"
    reply: Thanks! On to question 2...
  - equals: "no"
    reply: Goodbye
otherwise:
  - Please answer with either 'yes' or 'no'
  - May we ask a question?
"""
