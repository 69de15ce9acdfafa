"""The inspector: a page in a browser that shows the traffic of a source, and controls it.

`feed_events` turns observed traffic into events of the page, `retained` retains the latest, and `feed` delivers them
to any number of pages. `page_access` decides who may read, `routes` serves all of it on the port of the source, and
`desk` passes on what the page asks for.
"""
