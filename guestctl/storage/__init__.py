"""What guestctl keeps on disk: sessions, the outbox, the ledger and locks.

Knows: SQLite and file permissions. Must not know: any API, the network.
"""
