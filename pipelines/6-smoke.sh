#!/usr/bin/env bash
# Smoke test of a running system: it is healthy and ready, a picture comes back with exactly the bytes of the one-machine
# program, and its workers are listed. It works for one process, Compose, Kubernetes and GKE alike.
#
#   bash pipelines/6-smoke.sh http://127.0.0.1:8080
#   bash pipelines/6-smoke.sh http://203.0.113.7 --wait 180      retries each step for 180 s while things start (default 30)
#   AUTH_TOKEN=… bash pipelines/6-smoke.sh https://sobel.example
#
# Expect four steps within seconds, and `all well` as the last line; on failure an error, and exit code 1. The job and the
# sample picture are removed. Safe to run again at any time.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=SCRIPTDIR/lib.sh
source "$project/pipelines/lib.sh"

url=""
patience=30
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage && exit ;;
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
install_packages

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
bun run pipelines/sample.ts "$folder/sample.png" || die "could not draw the sample picture"
# No proxy for a coordinator on this machine.
export NO_PROXY="${NO_PROXY:-${no_proxy:-}},127.0.0.1,localhost,::1"
bun run pipelines/smoke.ts "$url" "$folder/sample.png" "$patience"
