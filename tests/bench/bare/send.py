"""`send` over REST without guestctl: one POST by requests. argv: url, token, body as JSON."""

import json
import sys

import requests

url, token, body = sys.argv[1:]
reply = requests.post(url, json=json.loads(body), headers={"Authorization": f"Bearer {token}"}, timeout=30)
reply.raise_for_status()
print(json.dumps(reply.json()))
