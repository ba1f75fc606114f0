# shellcheck shell=bash
# What the local pipelines share: Bun found or installed, Debian packages installed, errors. Sourced, not run.
# It changes nothing of the machine beyond what it says that it installs.

BUN_VERSION=1.4.5 # the one that the project is tested with
BUN_OLDEST=1.3

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Without a HOME that can be written (cron, `env -i`) npm and Bun have nowhere for their caches: the account's, or a new one.
ensure_home() {
  [ -w "${HOME:-}" ] && return
  HOME="$(getent passwd "$(id -u)" | cut -d: -f6)"
  [ -w "$HOME" ] || HOME="$(mktemp -d)"
  export HOME
}

# apt_install PACKAGE...: installs them as root or with sudo; where neither is possible it says what to run, and ends.
apt_install() {
  local by_hand="apt-get update && apt-get install -y --no-install-recommends $*" as_root=()
  have apt-get || die "missing: $*; this machine has no apt-get, install them in its own way"
  if [ "$(id -u)" -ne 0 ]; then
    # With nobody at the terminal sudo must not ask for a password.
    if have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
      as_root=(sudo)
    else
      die "missing: $*
Run this as root, then start again:
  $by_hand"
    fi
  fi
  echo "    $by_hand"
  # shellcheck disable=SC2016 # expanded by the inner shell
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -euc '
    # Debian starts a server as soon as it is installed. These are for the tests, which start their own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap "rm -f $policy" EXIT
      printf "#!/bin/sh\nexit 101\n" >"$policy"
      chmod +x "$policy"
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@"
  ' sh "$@" >/dev/null || die "apt-get could not install: $*"
}

# Puts `bun` on this script's PATH. One that is there already is used; else the binary of the npm package goes into the
# user's cache folder: not the package `bun`, whose install script npm no longer runs unasked, but the binary's own.
ensure_bun() {
  if have bun && [ "$(printf '%s\n' "$BUN_OLDEST" "$(bun --version)" | sort -V | head -n 1)" = "$BUN_OLDEST" ]; then
    return
  fi
  local platform folder
  case "$(uname -s) $(uname -m)" in
    "Linux x86_64") platform=linux-x64 ;;
    "Linux aarch64") platform=linux-aarch64 ;;
    *) die "no bun on the PATH, and this script installs it for Linux on x86_64 and aarch64 only" ;;
  esac
  folder="${XDG_CACHE_HOME:-$HOME/.cache}/sobel-distributed/bun-$BUN_VERSION"
  PATH="$folder/node_modules/@oven/bun-$platform/bin:$PATH"
  if [ "$(bun --version 2>/dev/null)" != "$BUN_VERSION" ]; then
    have npm || apt_install npm ca-certificates
    echo "    npm install @oven/bun-$platform@$BUN_VERSION, into $folder"
    mkdir -p "$folder"
    npm install --silent --no-save --prefix "$folder" "@oven/bun-$platform@$BUN_VERSION" \
      || die "npm could not install Bun; see above, or install Bun in another way and start again"
    hash -r
  fi
  [ "$(bun --version)" = "$BUN_VERSION" ] || die "$folder holds no working Bun $BUN_VERSION; remove it and start again"
}
