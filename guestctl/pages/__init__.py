"""Web pages that the package contains: the inspector and the single-file reports. `static/` has their JavaScript."""
