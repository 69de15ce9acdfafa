"""Programs for maintainers: generated pages, coverage and mutation runs."""
