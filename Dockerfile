# Two targets:
#   sidecar   the static binary alone: COPY --from=THIS /sidecar /sbin/init
#   bundle    egress, pipelock, git-gate and supervise, with sidecar as PID 1 (the default)
#
# `podman build` drops the HEALTHCHECK, which OCI images don't have, unless it is told --format docker.
#
# With a registry in reach: docker build -t sidecar-bundle . (or --target sidecar). Without one, scripts/lib.sh makes
# each image below on the spot and passes it in. It keeps to what the legacy builder knows, which runs every stage.
# Tried with the legacy builder of Engine 20.10 and with the BuildKit inside it, on images made on the spot; the build of
# the binary from source in one with this machine's Rust (scripts/from-source); by buildx, target `sidecar` for amd64 and arm64 in
# one go, with binaries that were there (scripts/hosts). Not tried: a pull of the four images, a machine that is aarch64.
ARG RUST_IMAGE=rust:1.88-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim
ARG PIPELOCK_IMAGE=ghcr.io/luckypipewrench/pipelock:2.3.0
ARG GITLEAKS_IMAGE=ghcr.io/gitleaks/gitleaks:v8.30.1

FROM ${RUST_IMAGE} AS build
# A binary that is in the build context already (dist/sidecar, by scripts/build; dist/sidecar-aarch64, by scripts/cross):
# then RUST_IMAGE needs no more than a shell. For several architectures in one go: dist/sidecar-ARCHITECTURE, as it stands here.
ARG SIDECAR_BINARY=
# The architecture that the image is for, amd64 or arm64: BuildKit sets it; for the legacy builder, --platform and
# --build-arg TARGETARCH. One that the binary isn't for is found here: the first bytes of a program name its machine.
ARG TARGETARCH
# What --version tells, since the context holds no .git: --build-arg SIDECAR_COMMIT="$(git rev-parse HEAD)".
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

# Whatever of the machine's own (its CA, an index with a password in its URL) is needed to fetch the Python programs
# stays in this stage: of it only /opt is taken.
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
# Modes are set here, whatever umask the clone was made under.
COPY bundle /bundle
RUN cd /bundle \
 && mkdir -p /rootfs/opt /rootfs/usr/local/bin \
 && cp -a /opt/egress /opt/supervise /rootfs/opt/ \
 && install -m 755 -t /rootfs/usr/local/bin */*-entrypoint egress/egress-check git-gate/git-gate-new \
 && install -m 644 -t /rootfs/opt/egress egress/*.py \
 && install -m 644 -t /rootfs/opt/supervise supervise/*.py \
 && install -D -m 644 -t /rootfs/usr/local/lib/git-gate git-gate/env git-gate/findings.tmpl git-gate/gitconfig \
 && install -D -m 755 -t /rootfs/usr/local/lib/git-gate/hooks git-gate/hooks/pre-receive

# /tmp/egress and /tmp/git-gate: where no tmpfs is mounted at /tmp, a daemon's sandbox can't make its directory there if the root
# is read-only, and a sandbox with a part missing starts nothing.
FROM ${BASE_IMAGE} AS bundle
# Debian packages that the program at /pipelock needs. The official one is static and needs none; tinyproxy does.
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
# Owned by the user who runs the daemons: `apply-* --file` puts a new file beside the old one, then renames it.
COPY --chown=1000:1000 bundle/egress/routes.yaml /etc/sidecar/egress/
COPY --chown=1000:1000 bundle/pipelock/pipelock.yaml /etc/sidecar/pipelock/
COPY --from=sidecar /sidecar /usr/local/bin/sidecar
USER sidecar
# A program for another machine, a checker that refuses its own default: found here rather than in the first container.
RUN sidecar check && gitleaks version \
 && egress-check /etc/sidecar/egress/routes.yaml && pipelock check --config /etc/sidecar/pipelock/pipelock.yaml
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
LABEL sidecar.schema="1"
EXPOSE 9080 9100 9418
STOPSIGNAL SIGTERM
# Healthy: each selected daemon runs and is ready; of a table of one's own, a oneshot runs or is done. A daemon that waits for
# another, is in backoff, was stopped, or has ended makes it unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/sidecar", "status", "--ready"]
ENTRYPOINT ["/sbin/init"]
