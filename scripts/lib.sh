# shellcheck shell=bash
# Sourced by scripts/test and scripts/demo, which run in the root of the repository: an Engine (ensure_engine) and
# the images on it (ensure_images).

# What both scripts need of Debian, as COMMAND:PACKAGE. `cc` links Rust programs, strace watches init in a test, python3
# plays daemons there.
SIDECAR_NEEDS=(cc:gcc git:git strace:strace ps:procps busybox:busybox-static python3:python3)
SIDECAR_NEEDS_ENGINE=(docker:docker.io dockerd:docker.io)
GITLEAKS_VERSION=v8.30.1

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "$0: $*"
  exit 1
}

# missing_packages COMMAND:PACKAGE…: prints the Debian packages whose command is missing.
missing_packages() {
  local need
  for need in "$@"; do
    # sbin isn't on everyone's PATH.
    PATH="$PATH:/usr/sbin:/sbin" command -v "${need%%:*}" > /dev/null || echo "${need#*:}"
  done | sort -u
}

engine_answers() { docker version --format '{{.Server.Version}}' > /dev/null 2>&1; }

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; }

# install_packages PACKAGE…: says what it installs, and asks first if this is a terminal.
install_packages() {
  local answer package
  say "to be installed from Debian: $*"
  if [ -t 0 ]; then
    read -r -p "Install? [y/N] " answer
    [[ $answer = [yY]* ]] || fail "nothing was installed; install these yourself: $*"
  fi
  for package in "$@"; do
    # PACKAGE:ARCHITECTURE is another machine's.
    [[ $package != *:* ]] || dpkg --add-architecture "${package#*:}"
  done
  # Recommended packages too: for docker.io they include what AppArmor and cgroups need.
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install "$@"; } > /dev/null \
    || fail "apt-get could not install: $*"
}

# ensure_commands COMMAND:PACKAGE…: makes sure that these commands exist. As root on Debian it installs what is missing.
ensure_commands() {
  local packages
  mapfile -t packages < <(missing_packages "$@")
  [ ${#packages[@]} -gt 0 ] || return 0
  may_install || fail "these Debian packages are needed: ${packages[*]}. Install them, or run this as root on Debian, which installs them"
  install_packages "${packages[@]}"
}

# Makes sure that there are a usable Docker Engine and the commands that the tests need. As root on Debian it installs what is
# missing, and starts an Engine that isn't running (and leaves it running). Otherwise it fails and says what to do.
ensure_engine() {
  local log=/var/log/sidecar-dockerd.log pid tries needs=("${SIDECAR_NEEDS[@]}")
  command -v cargo > /dev/null || fail "cargo is missing: install Rust 1.88 or newer (rustup)"
  engine_answers || needs+=("${SIDECAR_NEEDS_ENGINE[@]}")
  ensure_commands "${needs[@]}"
  engine_answers && return

  [ "$(id -u)" = 0 ] || fail "no usable Docker Engine: $(docker version 2>&1 | tail -n 1). Start it (systemctl start docker), join its group, or run this as root, which starts one"
  [ -z "${DOCKER_HOST-}" ] || fail "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST"
  say "starting a Docker Engine, which is left running; its log: $log"
  if [ -d /run/systemd/system ]; then
    log="journalctl -u docker"
    systemctl start docker || fail "systemctl could not start docker: see $log"
  else
    PATH="$PATH:/usr/sbin:/sbin" setsid dockerd > "$log" 2>&1 < /dev/null &
    pid=$!
  fi
  for ((tries = 0; tries < 300; tries++)); do
    if engine_answers; then return; fi
    # If systemd has started it, there is no pid here, and systemctl has waited for it.
    if [ -n "${pid-}" ] && ! kill -0 "$pid" 2> /dev/null; then
      break
    fi
    sleep 0.2
  done
  [ ! -f "$log" ] || tail -n 2 "$log" >&2
  fail "dockerd does not answer: see $log. A Docker Engine needs root, cgroups and iptables; on a machine that can't run one, set DOCKER_HOST to one elsewhere"
}

have_image() { docker image inspect "$1" > /dev/null 2>&1; }

# pulled IMAGE: whether the image is here or could be pulled. If no registry can be reached, that fails within a second.
pulled() {
  local said
  if have_image "$1"; then return; fi
  say "pulling $1"
  said=$(timeout 180 docker pull --quiet "$1" 2>&1) && return
  say "$1 can't be pulled: $(tail -n 1 <<< "$said" | cut -c1-200)"
  return 1
}

# import_file FILE PATH TAG: makes an image that holds only FILE, executable, at PATH.
import_file() (
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  install -D -m 755 "$1" "$root$2"
  tar -C "$root" --owner=0 --group=0 -c . | docker import - "$3" > /dev/null
)

# apt_mirror main|security: prints where this machine's apt finds Debian, or its security updates; nothing if that is unknown.
# A password in it is left out, since the image would keep it.
# shellcheck disable=SC2016 # apt's own variables
apt_mirror() {
  local uri release component kind
  command -v apt-get > /dev/null || return 0
  while read -r uri release component; do
    kind=main
    [[ $release != *-* ]] || kind=${release##*-}
    if [ "$kind $component" = "$1 main" ] && [[ $uri =~ ^(https?://)([^/]*@)?(.*)$ ]]; then
      echo "${BASH_REMATCH[1]}${BASH_REMATCH[3]}"
      return
    fi
  done < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' 2> /dev/null)
}

# Makes sure that there is a base image: the official one, else debootstrap's smallest Debian.
ensure_base() (
  if have_image sidecar-base:bookworm; then exit; fi
  if pulled debian:bookworm-slim; then
    docker tag debian:bookworm-slim sidecar-base:bookworm
    exit
  fi
  mapfile -t packages < <(missing_packages debootstrap:debootstrap)
  if [ ${#packages[@]} -gt 0 ]; then
    may_install || fail "no base image: debian:bookworm-slim can't be pulled, and making one with debootstrap needs root on Debian"
    install_packages "${packages[@]}"
  fi
  [ "$(id -u)" = 0 ] || fail "no base image: debian:bookworm-slim can't be pulled, and debootstrap needs root"
  say "making the base image with debootstrap instead (about a minute)"
  # If the lists were never fetched, apt doesn't know their origin.
  apt-get -qq update > /dev/null 2>&1 || true
  mirror=$(apt_mirror main)
  security=$(apt_mirror security)
  # Not /tmp, which may be mounted nodev.
  root=$(mktemp -d -p /var/tmp)
  trap 'rm -rf --one-file-system "$root"' EXIT
  # shellcheck disable=SC2086 # no mirror known: debootstrap's own default
  PATH="$PATH:/usr/sbin:/sbin" debootstrap --variant=minbase --include=ca-certificates bookworm "$root" $mirror > "$root.log" 2>&1 \
    || fail "debootstrap failed: see $root.log"
  [ -z "$security" ] || echo "deb $security bookworm-security main" >> "$root/etc/apt/sources.list"
  # debootstrap copies these from this machine.
  rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
  # As in the official slim image, packages that are installed later don't bring manuals either.
  {
    printf 'path-exclude /usr/share/%s/*\n' doc man locale
    echo 'path-include /usr/share/doc/*/copyright'
  } > "$root/etc/dpkg/dpkg.cfg.d/slim"
  find "$root/usr/share/doc" ! -type d ! -name copyright -delete
  rm -rf "$root"/usr/share/{man,locale}/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log
  tar -C "$root" -c . | docker import - sidecar-base:bookworm > /dev/null
  rm "$root.log"
)

# Sets gitleaks_image: the official image, else one built from the Go module.
ensure_gitleaks() {
  local official
  gitleaks_image=sidecar-gitleaks:$GITLEAKS_VERSION
  if have_image "$gitleaks_image"; then return; fi
  official=$(sed -n 's/^ARG GITLEAKS_IMAGE=//p' Dockerfile)
  if pulled "$official"; then
    gitleaks_image=$official
    return
  fi
  command -v go > /dev/null || fail "no gitleaks: its image can't be pulled, and building it from its Go module needs Go 1.24 or newer"
  say "building gitleaks $GITLEAKS_VERSION from its Go module instead"
  build_gitleaks
}

build_gitleaks() (
  module=github.com/zricethezav/gitleaks/v8
  bin=$(mktemp -d)
  trap 'rm -rf "$bin"' EXIT
  CGO_ENABLED=0 GOBIN=$bin go install -trimpath -ldflags "-s -w -X $module/version.Version=${GITLEAKS_VERSION#v}" "$module@$GITLEAKS_VERSION" > "$bin.log" 2>&1 \
    || fail "gitleaks could not be built: see $bin.log"
  import_file "$bin/gitleaks" /usr/bin/gitleaks "$gitleaks_image"
  rm "$bin.log"
)

# Sets pipelock_image, pipelock_packages, filter_tag and SIDECAR_FILTER: the program at $PIPELOCK, else the official
# image, else tinyproxy in its place.
ensure_pipelock() {
  local official sum
  official=$(sed -n 's/^ARG PIPELOCK_IMAGE=//p' Dockerfile)
  filter_tag=pipelock pipelock_packages=''
  if [ -n "${PIPELOCK-}" ]; then
    if [ ! -f "$PIPELOCK" ] || [ ! -x "$PIPELOCK" ]; then
      fail "PIPELOCK=$PIPELOCK is not an executable file"
    fi
    sum=$(sha256sum < "$PIPELOCK")
    pipelock_image=sidecar-pipelock:${sum:0:12}
    have_image "$pipelock_image" || import_file "$PIPELOCK" /pipelock "$pipelock_image"
    SIDECAR_FILTER="pipelock itself, from PIPELOCK=$PIPELOCK"
  elif pulled "$official"; then
    pipelock_image=$official
    SIDECAR_FILTER="pipelock itself, from $official"
  else
    say "tinyproxy takes pipelock's place; PIPELOCK=/path/to/pipelock would put the real one in"
    filter_tag=tinyproxy pipelock_packages='tinyproxy python3-yaml'
    sum=$(sha256sum < bundle/pipelock/tinyproxy-stand-in)
    pipelock_image=sidecar-pipelock:${sum:0:12}
    have_image "$pipelock_image" || import_file bundle/pipelock/tinyproxy-stand-in /pipelock "$pipelock_image"
    SIDECAR_FILTER="tinyproxy standing in for pipelock (set PIPELOCK=/path/to/pipelock for the real one)"
  fi
}

# Passes this machine's configuration of pip to the build, if there is one. It isn't left in the image.
copy_pip_configuration() {
  rm -rf dist/build-input
  mkdir -p dist
  mkdir -m 700 dist/build-input
  local file
  # A CA of its own, as behind a company's proxy.
  if [ -n "$(find /usr/local/share/ca-certificates -name '*.crt' -print -quit 2> /dev/null)" ]; then
    cp /etc/ssl/certs/ca-certificates.crt dist/build-input/
  fi
  [ ! -f /etc/pip.conf ] || cp /etc/pip.conf dist/build-input/pip.conf
  for file in "${PIP_CONFIG_FILE-}" "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" "$HOME/.pip/pip.conf"; do
    if [ -f "$file" ]; then
      cp "$file" dist/build-input/user-pip.conf
      break
    fi
  done
}

# build_image TARGET TAG [ARGUMENT…]
build_image() (
  target=$1 tag=$2 status=0 start=$SECONDS
  shift 2
  log=$(mktemp)
  # If the build fails, the log is kept; if Ctrl-C ends it, it isn't.
  trap 'rm -f "$log"' EXIT
  # On Ctrl-C docker exits with a code of its own, which bash would take for a failure.
  trap 'exit 130' INT
  say "building $tag"
  # --network=host: if the machine's resolver or proxy is on loopback, a container on a bridge can't reach it.
  docker build --network=host --target "$target" --tag "$tag" \
    --build-arg RUST_IMAGE=sidecar-base:bookworm --build-arg SIDECAR_BINARY=dist/sidecar \
    --build-arg BASE_IMAGE=sidecar-base:bookworm "$@" . > "$log" 2>&1 || status=$?
  if [ "$status" != 0 ]; then
    tail -n 40 "$log" >&2
    trap - EXIT
    fail "docker build of the target $target failed: all of its output is in $log"
  fi
  say "built $tag in $((SECONDS - start)) s"
)

# Builds dist/sidecar and the images `sidecar:local` and `sidecar-bundle:pipelock` or `:tinyproxy`. Sets and exports
# SIDECAR_IMAGE, SIDECAR_BUNDLE_IMAGE and SIDECAR_FILTER, the sentence that says which filtering proxy is in it.
ensure_images() {
  local gitleaks_image pipelock_image pipelock_packages filter_tag name
  scripts/build > /dev/null
  ensure_base
  ensure_gitleaks
  ensure_pipelock
  build_image sidecar sidecar:local
  local arguments=(--build-arg "PIPELOCK_IMAGE=$pipelock_image" --build-arg "PIPELOCK_PACKAGES=$pipelock_packages"
    --build-arg "GITLEAKS_IMAGE=$gitleaks_image")
  # Without a value, docker takes them from the environment. None of them appears in the final image's history.
  for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name-}" ] || arguments+=(--build-arg "$name")
  done
  (
    trap 'rm -rf dist/build-input' EXIT
    copy_pip_configuration
    build_image bundle "sidecar-bundle:$filter_tag" "${arguments[@]}"
  )
  # Use the id, since a build from another clone may move the tag meanwhile.
  SIDECAR_BUNDLE_IMAGE=$(docker image inspect --format '{{.Id}}' "sidecar-bundle:$filter_tag")
  SIDECAR_IMAGE=$(docker image inspect --format '{{.Id}}' sidecar:local)
  export SIDECAR_IMAGE SIDECAR_BUNDLE_IMAGE SIDECAR_FILTER
}
