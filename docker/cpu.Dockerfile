# Build from the repository's root:  docker build -f docker/cpu.Dockerfile -t supernas:cpu .

FROM python:3.11.14-slim-bookworm AS build
ARG TORCH_VERSION=2.13.0
# The index's build for processors.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# torch alone from its own index, which does not have every version of what it needs; those follow with everything else.
RUN python -m venv /opt/nas && /opt/nas/bin/pip install --no-deps --index-url "${TORCH_INDEX}" "torch==${TORCH_VERSION}"
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY nas nas
COPY searchspaces searchspaces
RUN /opt/nas/bin/pip install -c constraints.txt '.[plots,postgres,web]' && /opt/nas/bin/pip check

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 1000 --create-home nas && install -d -o nas -g nas /srv/nas /srv/nas/jobs /srv/nas/runs
COPY --from=build /opt/nas /opt/nas
COPY docker/entry.py /opt/nas/entry.py
ENV PATH=/opt/nas/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
USER 1000:1000
# The same folder in every container: workers find job files and weights where the driver has them.
WORKDIR /srv/nas
ENTRYPOINT ["/opt/nas/bin/python", "/opt/nas/entry.py"]
CMD ["nas", "--help"]
