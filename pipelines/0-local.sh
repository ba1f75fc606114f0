#!/usr/bin/env bash
# Runs the whole program on this machine in one process: no RabbitMQ, no Redis, nothing to configure. Installs what is missing
# (Bun, with npm; npm, with apt-get), starts the coordinator, computes the edges of a picture, and then serves the page.
#
#   bash pipelines/0-local.sh                     a sample picture that the project draws
#   bash pipelines/0-local.sh photo.jpg           writes photo.sobel.png next to it
#   bash pipelines/0-local.sh photo.jpg --once    the same, then exits
#   PORT=9000 bash pipelines/0-local.sh           another port than 8080
#
# Expect the result within seconds, then the address of the page. Ctrl-C stops it. Safe to run again at any time.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=SCRIPTDIR/lib.sh
source "$project/pipelines/lib.sh"

PORT="${PORT:-8080}"
image=""
once=false
for argument in "$@"; do
  case "$argument" in
    --once) once=true ;;
    -h | --help) usage && exit ;;
    -*) die "unknown option $argument; expected [IMAGE] [--once]" ;;
    *)
      [ -z "$image" ] || die "expected one image, got $image and $argument"
      image="$argument"
      ;;
  esac
done

# The arguments are checked before anything is installed.
if ! [[ "$PORT" =~ ^[1-9][0-9]{0,4}$ ]] || [ "$PORT" -gt 65535 ]; then die "PORT: expected 1 to 65535, got $PORT"; fi
sample=false
if [ -n "$image" ]; then
  [ -e "$image" ] || die "there is no file $image"
  [ -f "$image" ] || die "$image is not a file"
  [ -r "$image" ] || die "$image is not readable; change its permissions"
  folder="$(cd "$(dirname "$image")" && pwd)"
  image="$folder/$(basename "$image")"
else
  sample=true
  folder="$project/out"
  mkdir -p "$folder"
  image="$folder/sample.png"
fi
name="$(basename "$image")"
result="$folder/${name%.*}.sobel.png"
[ -w "$folder" ] || die "cannot write $result: the folder is not writable"
# Bash's own /dev/tcp: no other tool for this is installed everywhere.
if (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then
  die "port $PORT is in use; choose another: PORT=$((PORT < 65535 ? PORT + 1 : 8080)) bash pipelines/0-local.sh"
fi

cd "$project"
ensure_home
echo "==> Bun and the packages"
ensure_bun
install_packages

if $sample; then bun run pipelines/sample.ts "$image" || die "cannot draw the sample picture $image; see the error above"; fi

log="$(mktemp)"
coordinator=""
# SIGTERM, not SIGINT: background processes of a shell ignore Ctrl-C.
stop() {
  trap - EXIT INT TERM
  if [ -n "$coordinator" ]; then
    kill "$coordinator" 2>/dev/null || true
    wait "$coordinator" 2>/dev/null || true
  fi
  rm -f "$log"
}
trap stop EXIT
trap 'echo; echo "stopping"; exit 130' INT
trap 'exit 143' TERM

echo "==> the coordinator"
# env -u: this shell may have the settings of a cluster. Dockerfile.coordinator explains MIMALLOC_*.
env -u RABBITMQ_URL -u REDIS_URL -u AUTH_TOKEN HOST=127.0.0.1 PORT="$PORT" \
  MIMALLOC_PURGE_DELAY="${MIMALLOC_PURGE_DELAY:-60000}" MIMALLOC_PURGE_HOLES="${MIMALLOC_PURGE_HOLES:-0}" \
  bun run coordinator.ts >"$log" 2>&1 &
coordinator=$!

# Bun is also the HTTP client, since curl may not be installed. No proxy for a coordinator on this machine.
client() { env -u HTTP_PROXY -u http_proxy -u ALL_PROXY -u all_proxy bun "$@"; }

# until_healthy: waits up to 30 s for /healthz.
until_healthy() {
  local tries
  for ((tries = 0; tries < 150; tries++)); do
    kill -0 "$coordinator" 2>/dev/null || return 1
    if client -e 'process.exit((await fetch(process.argv[1]).catch(() => null))?.ok ? 0 : 1)' \
      "http://127.0.0.1:$PORT/healthz" >/dev/null 2>&1; then return 0; fi
    sleep 0.2
  done
  return 1
}
if ! until_healthy; then
  cat "$log" >&2
  die "the coordinator did not start on port $PORT; see its output above"
fi

# failed: the client has printed its error; if the coordinator has exited, its output is the cause.
failed() {
  kill -0 "$coordinator" 2>/dev/null || cat "$log" >&2
  exit 1
}

echo "==> the edges of $image"
client run - "$image" "http://127.0.0.1:$PORT/tasks/sobel" "$result" <<'TS' || failed
import { rename, rm } from "node:fs/promises";

const [image, url, result] = process.argv.slice(2);
const part = `${result}.part`; // a partial result must not look like a result
const start = performance.now();
try {
  const response = await fetch(url, { method: "POST", body: Bun.file(image), timeout: false });
  if (!response.ok) {
    const text = await response.text();
    let problem = { detail: text }; // another server's error may be no JSON
    if (response.headers.get("content-type")?.includes("json")) problem = JSON.parse(text);
    throw new Error(`${problem.detail ?? problem.title ?? text} (HTTP ${response.status})`);
  }
  const bytes = await Bun.write(part, response);
  await rename(part, result);
  const seconds = ((performance.now() - start) / 1000).toFixed(2);
  console.log(`    ${result}: ${(bytes / 1e6).toFixed(2)} MB, in ${seconds} s`);
} catch (error) {
  await rm(part, { force: true });
  console.error(`error: ${error.message}`);
  process.exit(1);
}
TS

$once && exit 0
echo "==> the page: http://127.0.0.1:$PORT/   (Ctrl-C stops it)"
wait "$coordinator" || { cat "$log" >&2; die "the coordinator exited; see its output above"; }
