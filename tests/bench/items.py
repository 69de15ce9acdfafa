"""Every item by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.bench import archive, crowd, inspector, interrupt, pages, relay, scenarios, startup, store, stream
from tests.bench.figures import Figure, Scale

ITEMS: dict[str, Callable[[Scale], Iterator[Figure]]] = {
    "version": startup.version,
    "help": startup.help_,
    "ask": startup.ask,
    "send": startup.send,
    "table": startup.table,
    "listen": stream.throughput,
    "delay": stream.delay,
    "memory": stream.memory,
    "history": archive.history,
    "pages": pages.pages,
    "check": scenarios.check,
    "idle": crowd.idle,
    "echo": crowd.echo,
    "state": store.state,
    "clients": crowd.clients,
    "interrupt": interrupt.interrupt,
    "inspector": inspector.cost,
    "inspector-delay": inspector.delay,
    "inspector-desk": inspector.desk,
    "relay": relay.delay,
    "relay-memory": relay.memory,
    "relay-stalled": relay.stalled,
}
