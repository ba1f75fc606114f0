#!/usr/bin/env bash
# Every check of the project, on this machine: types, lint, shell scripts, known holes in the packages, and all tests, with a real RabbitMQ, Redis,
# Chromium and Deno. Installs what is missing (Debian packages as root or with sudo). Nothing may be skipped. Three checks need
# what no package brings (Terraform, gcloud, rights to make namespaces): where that is missing they are named as not done.
# Then the five comparisons of the README in short. They are printed; slow ones do not fail.
#
#   bash pipelines/0-test.sh
#
# Expect about ten minutes, and a few more where packages have to be installed. The last line is `N passed, N failed`,
# where a check that failed counts as one. Exit code 0 when all is well. It may be run again at any time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=SCRIPTDIR/lib.sh
source pipelines/lib.sh

failures=()

# step NAME COMMAND...: says what runs, whether it went well, and how long it took. Goes on after a failure.
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
  have ip || missing+=(iproute2)
  have nft || missing+=(nftables)
  # For the worker in Python: some 135 MB to fetch, 550 MB on the disk, nearly all of it OpenCV's.
  for package in pika redis cv2; do
    /usr/bin/python3 -c "import $package" 2>/dev/null && continue
    missing+=("python3-${package/cv2/opencv}")
  done
  [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

# Without these nothing below means anything: a failure ends the script.
required() {
  step "$@"
  [ ${#failures[@]} -eq 0 ] || die "cannot test without: $1"
}

# Fails on holes of high or critical severity that are known of the installed packages. A registry that cannot be asked is
# no fault of the project, so it fails nothing, but it is said aloud.
audit() {
  local found
  # With --json what is found stands on stdout, and what goes wrong on stderr.
  if found="$(timeout 120 bun audit --audit-level=high --json 2>"$complaint")"; then return; fi
  if [[ "$found" == "{"* ]]; then
    printf '%s\n' "$found"
    return 1
  fi
  printf '\n!!! NOT ASKED: the registry did not say whether the packages have known holes\n!!! %s\n\n' \
    "$(tail -n 1 "$complaint")" >&2
}

# Two halves of the files side by side, by their names: most of the time a test waits. Either has servers and temporary
# files of its own.
run_tests() {
  local first ok=0
  run_half a-o test/[a-o]*.test.ts &
  first=$!
  run_half p-z test/[!a-o]*.test.ts || ok=1
  wait "$first" || ok=1
  return "$ok"
}

# run_half NAME FILE...: runs these test files. Each line of the output says which half it is of.
run_half() {
  local name="$1"
  shift
  mkdir "$reports/$name"
  env -u FORCE_COLOR NO_COLOR=1 REQUIRE_SERVERS=1 TMPDIR="$reports/$name" bun test --timeout 30000 "$@" 2>&1 \
    | tee "$reports/$name.log" | sed -u "s/^/$name | /"
}

# count WORD: the numbers in the last lines of Bun's reports (` 12 pass`), added up; 0 where they have no such line.
count() {
  local half number sum=0
  for half in "$reports"/*.log; do
    number="$(tail -n 10 "$half" | sed -nE "s/\x1b\[[0-9;]*m//g; s/^ *([0-9]+) $1\$/\1/p" | tail -n 1)"
    sum=$((sum + ${number:-0}))
  done
  echo "$sum"
}

# What each test that failed printed last, and what failed between tests, once more: it stands far above, between the lines
# of the other half. A list of the names alone, with which Bun may end, is not it.
repeat_failures() {
  local half
  for half in "$reports"/*.log; do
    sed '/^[0-9]* tests\? failed:$/,$d' "$half" | grep -B 30 '^(fail)' || true
    grep -A 20 '^# Unhandled error' "$half" || true
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
step "packages without known holes: bun audit" audit
step "tests: bun test" run_tests
step "the README's comparisons, printed: bun run bench --quick" \
  bun run bench --quick --only kernel,embedded,distributed,course,small

passed="$(count pass)"
failed="$(count fail)"
skipped=$(($(count skip) + $(count todo)))
for name in ${failures[@]+"${failures[@]}"}; do
  printf 'FAILED: %s\n' "$name"
  # Bun's own count has the tests that failed, not a run that broke off.
  if [ "$name" != "tests: bun test" ] || [ "$failed" -eq 0 ]; then failed=$((failed + 1)); fi
done
repeat_failures
if [ "$passed" -eq 0 ]; then
  echo "FAILED: no test has passed"
  failed=$((failed > 0 ? failed : 1))
fi
if [ "$skipped" -gt 0 ]; then
  echo "FAILED: tests were skipped, and here none may be"
  echo "$passed passed, $failed failed, $skipped skipped"
  exit 1
fi
sed -sn 's/^!!! NOT DONE HERE/not done here/p' "$reports"/*.log
[ "$failed" -gt 0 ] || echo "Next: bash pipelines/0-local.sh photo.jpg"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
