#!/usr/bin/env bash
# Whether a system that runs somewhere does its work: it is healthy and ready, a picture goes through it and comes back with
# the very bytes of the one-machine program, and its workers are listed. The same for one process, Compose, Kubernetes
# and GKE.
#
#   bash pipelines/6-smoke.sh http://127.0.0.1:8080
#   bash pipelines/6-smoke.sh http://203.0.113.7 --wait 180      while things come up, for so many seconds (default 30)
#   AUTH_TOKEN=… bash pipelines/6-smoke.sh https://sobel.example
#
# Expect four steps within seconds, and `all well` as the last line. It leaves nothing behind: the job is removed, and the
# sample that it draws. Exit code 1 when something is wrong, which is then said. It may be run again at any time.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=SCRIPTDIR/lib.sh
source "$project/pipelines/lib.sh"

url=""
patience=30
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --wait)
      patience="${2:-}"
      [[ "$patience" =~ ^[0-9]{1,5}$ ]] || die "--wait: expected seconds, got ${patience:-nothing}"
      shift
      ;;
    -*) die "unknown option $1; expected URL [--wait SECONDS]" ;;
    *)
      [ -z "$url" ] || die "one address at a time, got $url and $1"
      url="$1"
      ;;
  esac
  shift
done
[ -n "$url" ] || die "expected an address: bash pipelines/6-smoke.sh http://127.0.0.1:8080"
[[ "$url" =~ ^https?://[^/]+ ]] || die "expected http://… or https://…, got $url"

cd "$project"
ensure_home
ensure_bun
# The tools for the tests are left out, unless they are there already: bun would remove them.
dependencies=(--production)
[ ! -d node_modules/typescript ] || dependencies=()
bun install --frozen-lockfile --silent "${dependencies[@]}" || die "bun install failed"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
bun run pipelines/sample.ts "$folder/sample.png" || die "could not draw the sample picture"
# A proxy has no business in a conversation on one machine.
export NO_PROXY="${NO_PROXY:-${no_proxy:-}},127.0.0.1,localhost,::1"
bun run pipelines/smoke.ts "$url" "$folder/sample.png" "$patience"
