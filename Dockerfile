# Two targets:
#   sidecar   the static binary alone: COPY --from=THIS /sidecar /sbin/init
#   bundle    egress, pipelock, git-gate and supervise, with sidecar as PID 1 (the default)
#
# OCI images have no HEALTHCHECK, so `podman build` drops it unless you add --format docker.
#
# If you can reach a registry: docker build -t sidecar-bundle . (or --target sidecar). Otherwise scripts/lib.sh makes each
# image below itself and passes it in. This file uses only what the legacy builder supports, which runs every stage.
# Tried: the legacy builder of Engine 20.10 and the BuildKit inside it, with base images that scripts/lib.sh made; a build from
# source in an image with this machine's Rust (scripts/from-source); and buildx, for target `sidecar` on amd64 and arm64 in one
# go, with prebuilt binaries (scripts/hosts). Not tried: pulling the four images, and an aarch64 machine.
ARG RUST_IMAGE=rust:1.88-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim
ARG PIPELOCK_IMAGE=ghcr.io/luckypipewrench/pipelock:2.3.0
ARG GITLEAKS_IMAGE=ghcr.io/gitleaks/gitleaks:v8.30.1

FROM ${RUST_IMAGE} AS build
# The path of a prebuilt binary in the build context: dist/sidecar (from scripts/build), dist/sidecar-aarch64 (from
# scripts/cross). RUST_IMAGE then needs only a shell. For several architectures in one go, write dist/sidecar-ARCHITECTURE
# literally.
ARG SIDECAR_BINARY=
# The image's architecture, amd64 or arm64. BuildKit sets it; with the legacy builder, use --platform and --build-arg
# TARGETARCH. The build fails here if the binary is for another one: the first bytes of a program name its machine.
ARG TARGETARCH
# The commit that --version shows, since the context has no .git: --build-arg SIDECAR_COMMIT="$(git rev-parse HEAD)".
ARG SIDECAR_COMMIT=
WORKDIR /src
COPY . .
RUN if [ -z "$SIDECAR_BINARY" ]; then scripts/build && SIDECAR_BINARY=dist/sidecar; fi \
 && SIDECAR_BINARY=$(echo "$SIDECAR_BINARY" | sed "s/ARCHITECTURE/$(uname -m)/") \
 && cp "$SIDECAR_BINARY" /sidecar && chmod 755 /sidecar \
 && case "$TARGETARCH:$(od -An -tx1 -j18 -N1 /sidecar | tr -d ' ')" in \
      :* | amd64:3e | arm64:b7) ;; \
      *) echo "$SIDECAR_BINARY is no program for $TARGETARCH" >&2; exit 1 ;; \
    esac

FROM scratch AS sidecar
COPY --from=build /sidecar /sidecar
ENTRYPOINT ["/sidecar"]

FROM ${PIPELOCK_IMAGE} AS pipelock

FROM ${GITLEAKS_IMAGE} AS gitleaks

# What the machine's configuration adds to fetch the Python programs (its CA, an index with a password in its URL) stays in
# this stage: only /opt is copied from it.
FROM ${BASE_IMAGE} AS python
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/*
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The directory is optional, hence the pattern; one match is needed, hence the file before it.
COPY bundle/egress/requirements.txt dist/build-inpu[t] /tmp/egress/
RUN cd /tmp/egress \
 && if [ -f ca-certificates.crt ]; then cp ca-certificates.crt "$PIP_CERT"; fi \
 && if [ -f pip.conf ]; then cp pip.conf /etc/pip.conf; fi \
 && if [ -f user-pip.conf ]; then mkdir -p /root/.config/pip && cp user-pip.conf /root/.config/pip/pip.conf; fi \
 && python3 -m venv /opt/egress \
 && /opt/egress/bin/pip install --no-deps --only-binary :all: --no-binary pyperclip -r requirements.txt \
 && /opt/egress/bin/pip check \
 && /opt/egress/bin/pip uninstall -y setuptools pip
COPY bundle/supervise/requirements.txt /tmp/supervise/
RUN python3 -m venv /opt/supervise \
 && /opt/supervise/bin/pip install --no-deps --only-binary :all: -r /tmp/supervise/requirements.txt \
 && /opt/supervise/bin/pip check \
 && /opt/supervise/bin/pip uninstall -y setuptools pip
# Set the modes here, since they depend on the umask under which the clone was made.
COPY bundle /bundle
RUN cd /bundle \
 && mkdir -p /rootfs/opt /rootfs/usr/local/bin \
 && cp -a /opt/egress /opt/supervise /rootfs/opt/ \
 && install -m 755 -t /rootfs/usr/local/bin */*-entrypoint egress/egress-check git-gate/git-gate-new \
 && install -m 644 -t /rootfs/opt/egress egress/*.py \
 && install -m 644 -t /rootfs/opt/supervise supervise/*.py \
 && install -D -m 644 -t /rootfs/usr/local/lib/git-gate git-gate/env git-gate/findings.tmpl git-gate/gitconfig \
 && install -D -m 755 -t /rootfs/usr/local/lib/git-gate/hooks git-gate/hooks/pre-receive

# /tmp/egress and /tmp/git-gate: if the root is read-only and no tmpfs is mounted at /tmp, a daemon's sandbox can't make its
# directory there, and the daemon isn't started.
FROM ${BASE_IMAGE} AS bundle
# Debian packages that the program at /pipelock needs. The official one is static and needs none; tinyproxy needs some.
ARG PIPELOCK_PACKAGES=
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates git python3 $PIPELOCK_PACKAGES \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log \
 && groupadd --gid 1000 sidecar \
 && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sidecar \
 && install -d -o sidecar -g sidecar -m 755 /etc/sidecar/egress /etc/sidecar/pipelock \
 && install -d -o sidecar -g sidecar -m 700 /var/lib/egress /var/lib/git-gate \
 && install -d -m 1777 /tmp/egress /tmp/git-gate \
 && ln -s /usr/local/bin/sidecar /sbin/init
COPY --from=python /rootfs/ /
COPY --from=gitleaks /usr/bin/gitleaks /usr/local/bin/gitleaks
COPY --from=pipelock /pipelock /usr/local/bin/pipelock
# These belong to the user who runs the daemons, since `apply-* --file` puts a new file beside the old one, then renames it.
COPY --chown=1000:1000 bundle/egress/routes.yaml /etc/sidecar/egress/
COPY --chown=1000:1000 bundle/pipelock/pipelock.yaml /etc/sidecar/pipelock/
COPY --from=sidecar /sidecar /usr/local/bin/sidecar
USER sidecar
# Find out now, rather than in the first container, if a program is for another machine or a checker refuses its own default.
RUN sidecar check && gitleaks version \
 && egress-check /etc/sidecar/egress/routes.yaml && pipelock check --config /etc/sidecar/pipelock/pipelock.yaml
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
LABEL sidecar.schema="1"
EXPOSE 9080 9100 9418
STOPSIGNAL SIGTERM
# Healthy: each selected daemon runs and is ready (a oneshot: runs or is done). A daemon that waits for another, is in backoff,
# was stopped or has ended makes the container unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/sidecar", "status", "--ready"]
ENTRYPOINT ["/sbin/init"]
