# Triton with a model repository of esam-rt. docs/howto/triton.md explains it. Build it in the root of the repository.
ARG BASE=nvcr.io/nvidia/tritonserver:25.10-py3

FROM ${BASE}
# The server's own Python gets the packages. NumPy stays below 2, as in the server's image.
ENV UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 UV_SYSTEM_PYTHON=1 UV_BREAK_SYSTEM_PACKAGES=1 PIP_BREAK_SYSTEM_PACKAGES=1
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
# This layer stays if only the source changes.
COPY pyproject.toml ./
RUN uv pip install 'numpy<2' -r pyproject.toml
COPY . ./
RUN uv pip install --no-deps .
# Kernels belong to root: esam-rt trusts them, and the server cannot change them.
ENV ESAM_RT_CACHE=/var/cache/esam-rt
# Command and options that write the repository
ARG PREPARE="export-triton tiny"
# hadolint ignore=SC2086
RUN esam-rt $PREPARE --out /models --quiet && esam-rt compile-kernels --quiet
# triton-server, a user of the base image
USER 1000:1000
WORKDIR /opt/tritonserver
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m \
    CMD ["curl", "--fail", "--silent", "localhost:8000/v2/health/ready"]
CMD ["tritonserver", "--model-repository=/models"]
