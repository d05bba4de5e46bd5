# Builds the image that runs a pipeline: docker build -t jetsocket-ingest .
#   docker run --rm -v ./my.yaml:/etc/jetsocket/config.yaml:ro jetsocket-ingest
# The health check asks the admin endpoint on port 8686, so the config needs `admin: {listen: "0.0.0.0:8686"}`;
# run one without it with --no-healthcheck.
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY jetsocket_ingest jetsocket_ingest
COPY sinks sinks
RUN pip wheel --no-deps --wheel-dir /wheels .
# Wheels only: a dependency that had to be compiled would want tools that the image below has not.
RUN python -m venv --without-pip /opt/jetsocket \
    && pip --python /opt/jetsocket/bin/python install --only-binary :all: \
        "$(echo /wheels/jetsocket_ingest-*.whl)[fast]"

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="jetsocket-ingest" \
      org.opencontainers.image.description="Declarative ingestion of WebSocket feeds into Kafka, files and anything else" \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed number, so that whoever owns a mounted folder can give it rights.
RUN groupadd --gid 10001 jetsocket \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/jetsocket --shell /usr/sbin/nologin jetsocket \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/jetsocket \
    && pip uninstall --yes --root-user-action ignore pip
COPY --from=build /opt/jetsocket /opt/jetsocket
ENV PATH=/opt/jetsocket/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# Relative paths of a config, such as data/…, lie here.
WORKDIR /var/lib/jetsocket
VOLUME /var/lib/jetsocket
EXPOSE 8686
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-m", "jetsocket_ingest.admin.probe", "http://127.0.0.1:8686/livez"]
ENTRYPOINT ["jetsocket-ingest"]
CMD ["run", "/etc/jetsocket/config.yaml"]
