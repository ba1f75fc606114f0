# shellcheck shell=bash
# Shared by all pipelines: errors, the help text, Bun and packages. Sourced, not run.
# It installs only what it prints, and changes nothing else on the machine.

BUN_VERSION=1.4.5 # the project is tested with this one
BUN_MIN=1.3
script_path="$(cd "$(dirname "$0")" && pwd)/$(basename "$0")" # absolute: scripts change the directory

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# usage: prints the comment at the top of the script.
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$script_path"; }

# ensure_home: npm and Bun need a writable HOME for their caches; cron and `env -i` set none. Takes the account's home, or a
# temporary folder.
ensure_home() {
  [ -w "${HOME:-}" ] && return
  HOME="$(getent passwd "$(id -u)" | cut -d: -f6)"
  [ -w "$HOME" ] || HOME="$(mktemp -d)"
  export HOME
}

# apt_install PACKAGE...: installs them as root or with sudo. If neither is possible, it prints the command to run, and exits.
apt_install() {
  local by_hand="apt-get update && apt-get install -y --no-install-recommends $*" as_root=()
  have apt-get || die "missing: $*; this machine has no apt-get: install them with its own package manager"
  if [ "$(id -u)" -ne 0 ]; then
    # Without a terminal sudo must not ask for a password.
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
    # Debian starts a server when it is installed. The tests start their own servers, so this prevents it.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap "rm -f $policy" EXIT
      printf "#!/bin/sh\nexit 101\n" >"$policy"
      chmod +x "$policy"
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@"
  ' sh "$@" >/dev/null || die "apt-get could not install $*; see the errors above"
}

# ensure_bun: puts `bun` on the PATH of this script. Uses an installed one, or installs it into the user's cache folder, from
# npm: the package of the binary, because npm does not run the install script of the package `bun` by default.
ensure_bun() {
  if have bun && [ "$(printf '%s\n' "$BUN_MIN" "$(bun --version)" | sort -V | head -n 1)" = "$BUN_MIN" ]; then
    return
  fi
  local platform folder
  case "$(uname -s) $(uname -m)" in
    "Linux x86_64") platform=linux-x64 ;;
    "Linux aarch64") platform=linux-aarch64 ;;
    *) die "this script installs Bun only on Linux (x86_64, aarch64); install it yourself: https://bun.com/docs/installation" ;;
  esac
  folder="${XDG_CACHE_HOME:-$HOME/.cache}/sobel-distributed/bun-$BUN_VERSION"
  PATH="$folder/node_modules/@oven/bun-$platform/bin:$PATH"
  if [ "$(bun --version 2>/dev/null)" != "$BUN_VERSION" ]; then
    have npm || apt_install npm ca-certificates
    echo "    npm install @oven/bun-$platform@$BUN_VERSION, into $folder"
    mkdir -p "$folder"
    npm install --silent --no-save --prefix "$folder" "@oven/bun-$platform@$BUN_VERSION" \
      || die "npm could not install Bun; see the errors above, or install Bun yourself and start again"
    hash -r
  fi
  [ "$(bun --version)" = "$BUN_VERSION" ] || die "$folder has no working Bun $BUN_VERSION; remove it and start again"
}

# install_packages: those that the programs need. If the test tools are installed, all: bun would remove the tools.
install_packages() {
  local production=(--production)
  [ ! -d node_modules/typescript ] || production=()
  bun install --frozen-lockfile --silent "${production[@]}" || die "bun install failed; see the errors above"
}
