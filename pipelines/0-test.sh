#!/usr/bin/env bash
# Runs every check of the project on this machine: types, lint, shell scripts, known vulnerabilities of the packages, and all
# tests, with a real RabbitMQ, Redis, Chromium and Deno. Installs what is missing (Debian packages as root or with sudo). A
# skipped test is a failure. Three checks need what no package contains (Terraform, gcloud, the right to create namespaces):
# without it the report lists them as not done. Then it prints the five comparisons of the README; slow ones do not fail.
#
#   bash pipelines/0-test.sh
#
# Expect about ten minutes, a few more if packages must be installed. The last line is `N passed, N failed`; a failed check
# counts as one. Exit code 0 if all pass. Safe to run again at any time.
set -euo pipefail
# shellcheck source=SCRIPTDIR/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(dirname "$script_path")/.."

case "$*" in
  "") ;;
  -h | --help) usage && exit ;;
  *) die "unknown argument $1; expected nothing or --help" ;;
esac

failures=()

# step NAME COMMAND...: prints the name, the outcome and the seconds of a check. Continues after a failure.
step() {
  local name="$1" start=$SECONDS
  shift
  printf '==> %s\n' "$name"
  if "$@"; then
    printf '    ok, %d s\n' $((SECONDS - start))
  else
    printf '    FAILED, %d s\n' $((SECONDS - start))
    failures+=("$name")
  fi
}

install_servers() {
  local missing=() package
  [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || have rabbitmq-server || missing+=(rabbitmq-server)
  have redis-server || missing+=(redis-server)
  have chromium || missing+=(chromium)
  have shellcheck || missing+=(shellcheck)
  have pngcheck || missing+=(pngcheck)
  have nginx || missing+=(nginx-light)
  have openssl || missing+=(openssl)
  have promtool || missing+=(prometheus)
  have ip || missing+=(iproute2)
  have nft || missing+=(nftables)
  have node || missing+=(nodejs)
  # For the worker in Go: a download of 80 MB, 470 MB on disk. The packages are Debian's: no module proxy is asked.
  have go || missing+=(golang-go)
  [ -d /usr/share/gocode/src/github.com/rabbitmq ] || missing+=(golang-github-rabbitmq-amqp091-go-dev)
  [ -d /usr/share/gocode/src/github.com/gomodule ] || missing+=(golang-github-gomodule-redigo-dev)
  # For the worker in Bash.
  have amqp-consume || missing+=(amqp-tools)
  have redis-cli || missing+=(redis-tools)
  have pamfunc || missing+=(netpbm)
  have jq || missing+=(jq)
  # For the worker in Python: a download of 135 MB, 550 MB on disk, nearly all of it OpenCV.
  for package in pika redis cv2; do
    /usr/bin/python3 -c "import $package" 2>/dev/null && continue
    missing+=("python3-${package/cv2/opencv}")
  done
  [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

# required NAME COMMAND...: a step that the others need. A failure ends the script.
required() {
  step "$@"
  [ ${#failures[@]} -eq 0 ] || die "cannot test without this: $1; see the errors above"
}

# audit: fails on known vulnerabilities of high or critical severity in the installed packages. If the registry cannot be
# reached, it prints a warning and does not fail: that is no fault of the project.
audit() {
  local found
  # With --json findings go to stdout, errors to stderr.
  if found="$(timeout 120 bun audit --audit-level=high --json 2>"$complaint")"; then return; fi
  if [[ "$found" == "{"* ]]; then
    printf '%s\n' "$found"
    return 1
  fi
  printf '\n!!! NOT DONE: the registry did not report whether the packages have known vulnerabilities\n!!! %s\n\n' \
    "$(tail -n 1 "$complaint")" >&2
}

# run_tests: runs three parts of the files at the same time, split by name, because most of the time a test waits. Each part
# has its own servers and temporary files.
run_tests() {
  local first second ok=0
  run_part a-f test/[a-f]*.test.ts &
  first=$!
  run_part p-r test/[p-r]*.test.ts &
  second=$!
  run_part other test/[!a-fp-r]*.test.ts || ok=1
  wait "$first" || ok=1
  wait "$second" || ok=1
  return "$ok"
}

# run_part NAME FILE...: runs these test files. Each line of the output starts with the name of the part.
run_part() {
  local name="$1"
  shift
  mkdir "$reports/$name"
  env -u FORCE_COLOR NO_COLOR=1 REQUIRE_SERVERS=1 TMPDIR="$reports/$name" bun test --timeout 30000 "$@" 2>&1 \
    | tee "$reports/$name.log" | sed -u "s/^/$name | /"
}

# count WORD: the sum of the numbers in the last lines of Bun's reports (` 12 pass`); 0 without such a line.
count() {
  local part number sum=0
  for part in "$reports"/*.log; do
    number="$(tail -n 10 "$part" | sed -nE "s/\x1b\[[0-9;]*m//g; s/^ *([0-9]+) $1\$/\1/p" | tail -n 1)"
    sum=$((sum + ${number:-0}))
  done
  echo "$sum"
}

# repeat_failures: prints again the last lines of each failed test, and errors between tests. The first print is far above,
# mixed with the other parts. Bun's closing list has only the names, so it is left out.
repeat_failures() {
  local part
  for part in "$reports"/*.log; do
    sed '/^[0-9]* tests\? failed:$/,$d' "$part" | grep -B 30 '^(fail)' || true
    grep -A 20 '^# Unhandled error' "$part" || true
  done
}

reports="$(mktemp -d)"
complaint="$reports/complaint"
trap 'rm -rf "$reports"' EXIT

ensure_home
required "servers and tools, from apt" install_servers
required "Bun" ensure_bun
required "packages: bun install --frozen-lockfile" bun install --frozen-lockfile
required "packages of terraform/: bun install --cwd terraform" bun install --cwd terraform --frozen-lockfile
required "Deno: bun x deno --version" bun x deno --version

step "types: tsc" bun x tsc
step "types of terraform/: tsc" bun x tsc -p terraform
step "lint: biome check" bun x biome check --error-on-warnings .
step "shell scripts: shellcheck" shellcheck -x pipelines/*.sh terraform/*.sh k8s/*.sh .ci/run
step "alerts: promtool" promtool check rules docs/alerts.yaml
step "Prometheus' settings: promtool" promtool check config --syntax-only docs/prometheus.yaml
step "known vulnerabilities of the packages: bun audit" audit
step "tests: bun test" run_tests
step "the README's comparisons, printed: bun run bench --quick" \
  bun run bench --quick --only kernel,embedded,distributed,course,small

passed="$(count pass)"
failed="$(count fail)"
skipped=$(($(count skip) + $(count todo)))
for name in ${failures[@]+"${failures[@]}"}; do
  printf 'FAILED: %s\n' "$name"
  # Bun's count includes failed tests, but not a run that was cut short.
  if [ "$name" != "tests: bun test" ] || [ "$failed" -eq 0 ]; then failed=$((failed + 1)); fi
done
repeat_failures
if [ "$passed" -eq 0 ]; then
  echo "FAILED: no test passed"
  failed=$((failed > 0 ? failed : 1))
fi
if [ "$skipped" -gt 0 ]; then
  echo "FAILED: $skipped tests were skipped; none may be skipped here"
  echo "$passed passed, $failed failed, $skipped skipped"
  exit 1
fi
sed -sn 's/^!!! NOT DONE HERE/not done here/p' "$reports"/*.log
[ "$failed" -gt 0 ] || echo "Next: bash pipelines/0-local.sh photo.jpg"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
