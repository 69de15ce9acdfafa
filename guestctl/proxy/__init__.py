"""A recording reverse proxy between any guest client and a deployment or a sandbox."""
