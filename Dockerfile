# guestctl as a container image: docker build -t guestctl .
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY docs/guestctl.1 docs/
COPY guestctl guestctl
RUN python -m venv /opt/guestctl && /opt/guestctl/bin/pip install --no-cache-dir ".[tls,socks,grpc]"

FROM python:3.12-slim
COPY --from=build /opt/guestctl /opt/guestctl
# The directory of the state exists with this owner, so that a volume there gets it, too.
RUN useradd --uid 10001 --create-home guest && mkdir -p /home/guest/.local/state && chown -R guest: /home/guest
ENV PATH=/opt/guestctl/bin:$PATH
# Kubernetes can tell only from a number that this user is not root.
USER 10001
WORKDIR /home/guest
ENTRYPOINT ["guestctl"]
CMD ["--help"]
