"""The process in which Locust runs: `python -m guestctl.load`.

gevent replaces parts of the standard library, and must do so before `ssl` is imported. So this is a process of its own,
and it imports nothing else first.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

    from guestctl.load.process import main

    main()
