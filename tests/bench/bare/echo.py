"""A server on the sandbox's library that sends every message back. Prints its address as JSON."""

import asyncio
import json
import socket
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application
from tornado.websocket import WebSocketHandler


class Echo(WebSocketHandler):
    def check_origin(self, origin: str) -> bool:
        return True

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)

    def on_message(self, message: Any) -> None:
        self.write_message(message)


async def main() -> None:
    port = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port.setblocking(False)
    HTTPServer(Application([(r".*", Echo)])).add_socket(port)
    print(json.dumps({"socket_url": f"ws://127.0.0.1:{port.getsockname()[1]}/v1", "deployment_id": "x"}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
