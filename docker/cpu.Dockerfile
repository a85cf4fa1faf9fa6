# esam-rt on CPUs. docs/howto/docker.md explains it. Build it in the root of the repository.
ARG BASE=python:3.12.12-slim-bookworm

FROM ${BASE} AS packages
# A read-only image cannot save bytecode later.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 VIRTUAL_ENV=/opt/esam-rt
RUN pip install --no-cache-dir uv==0.13.9 && uv venv --python "$(command -v python3)" "$VIRTUAL_ENV"
WORKDIR /src
# This layer stays if only the source changes.
COPY pyproject.toml ./
RUN uv pip install -r pyproject.toml --extra cpu
COPY . ./
RUN uv pip install --no-deps .

FROM ${BASE}
COPY --from=packages /opt/esam-rt /opt/esam-rt
# Graphs and kernels belong to root: esam-rt trusts them under every user, and no user of a container can change them.
ENV PATH=/opt/esam-rt/bin:$PATH ESAM_RT_CACHE=/var/cache/esam-rt
# Command and options that make the graphs
ARG PREPARE="export tiny"
# hadolint ignore=SC2086
RUN esam-rt $PREPARE --quiet && esam-rt compile-kernels --quiet
USER 10001:10001
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=30s --start-period=30s CMD ["esam-rt", "doctor"]
ENTRYPOINT ["esam-rt"]
CMD ["--help"]
