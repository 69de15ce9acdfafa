"""`history --all` without guestctl: pages by requests, each message a line of JSON. argv: address, JWT, page size."""

import json
import sys

import requests

url, jwt, size = sys.argv[1:]
with requests.Session() as session:
    session.headers["Authorization"] = f"Bearer {jwt}"
    number = 1
    while True:
        reply = session.get(url, params={"pageNumber": str(number), "pageSize": size}, timeout=30)
        reply.raise_for_status()
        entities = reply.json()["entities"]
        if not entities:
            break
        for entity in entities:
            print(json.dumps(entity))
        number += 1
