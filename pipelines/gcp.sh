# shellcheck shell=bash
# Shared by the pipelines on Google Cloud: settings, steps and their report, stacks, the cluster. Sourced, not run.
#
# Every call that changes something goes through `run`, every call that reads something through `ask`. Both print the call,
# and with --dry-run they do not make it. `ask` stores the answer in a variable, because a failure in `$(…)` would lose its
# step. kubectl has a kubeconfig of its own here, so it cannot reach another cluster of yours.

project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=SCRIPTDIR/lib.sh
source "$project/pipelines/lib.sh"
cd "$project" || exit

script="${script_path##*/}"
stacks=terraform/cdktf.out/stacks
export KUBECONFIG="$project/out/kubeconfig"
DRY_RUN=false
arguments=()
registry=""
declare -A known # by stack: its state as JSON
doing=""   # the current step
calling="" # its last call
declare -A install_from=(
  [gcloud]="https://cloud.google.com/sdk/docs/install"
  [gke-gcloud-auth-plugin]="gcloud components install gke-gcloud-auth-plugin"
  [kubectl]="gcloud components install kubectl"
  [terraform]="https://developer.hashicorp.com/terraform/install (1.5 or newer)"
  [docker]="https://docs.docker.com/engine/install/"
)

say() { printf '%s\n' "$*"; }

# options ARGUMENT...: handles --dry-run and --help. The other arguments are then in `arguments`.
options() {
  local argument
  for argument in "$@"; do
    case "$argument" in
      --dry-run) DRY_RUN=true ;;
      -h | --help) usage && exit ;;
      *) arguments+=("$argument") ;;
    esac
  done
}

no_arguments() { [ ${#arguments[@]} -eq 0 ] || die "unknown argument ${arguments[0]}; expected nothing, --dry-run or --help"; }

# begin TOOL...: checks the settings and the tools.
begin() {
  local tool missing=() settings
  : "${PROJECT:?set it to the id of your Google Cloud project: PROJECT=my-project-123 bash pipelines/$script}"
  ensure_home
  ensure_bun
  settings="$(bun --no-env-file run terraform/settings.ts)" || exit 1
  set -a # the stacks read the same values
  eval "$settings"
  set +a
  for tool in "$@"; do have "$tool" || missing+=("$tool"); done
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  if $DRY_RUN; then
    say "(Dry run: calls are printed, not made.${missing[*]:+ Not installed here: ${missing[*]}.})"
  elif [ ${#missing[@]} -gt 0 ]; then
    for tool in "${missing[@]}"; do say "missing: $tool: ${install_from[$tool]}"; done >&2
    exit 1
  fi
}

# finish: reports the step and the call that failed, and how to continue.
finish() {
  local code=$? outcome="FAILED: $doing"
  [ "$code" -ne 0 ] && [ -n "$doing" ] || exit "$code"
  [[ "$code" != 130 && "$code" != 143 ]] || outcome="INTERRUPTED: $doing"
  say "
$outcome (exit code $code)
  the last call: ${calling:-none}
  why: see the lines above; pipelines/README.md lists causes
  to continue, run the same command again; it repeats only what is not done yet:
    bash pipelines/$script${arguments[*]:+ ${arguments[*]}}" >&2
  exit "$code"
}

step() {
  doing="$1"
  calling=""
  say "==> $doing"
}

# shown COMMAND...: the command, quoted for a shell as in --format='value(name)'.
shown() {
  local word text=""
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="${word@Q}"
    [[ ! "$word" =~ ^\'(--[a-z-]+=)(.*)$ ]] || word="${BASH_REMATCH[1]}'${BASH_REMATCH[2]}"
    text+=" $word"
  done
  printf '%s' "${text# }"
}

# run COMMAND...: makes a call that changes something.
run() {
  calling="$(shown "$@")"
  say "    $calling"
  $DRY_RUN || "$@"
}

# ask VARIABLE PLACEHOLDER COMMAND...: stores the output of a call, or in a dry run the placeholder.
ask() {
  local _variable="$1" _answer="$2" _calling
  shift 2
  _calling="$(shown "$@")"
  [ "$_calling" = "$calling" ] || say "    $_calling" # a poll is printed once
  calling="$_calling"
  $DRY_RUN || _answer="$("$@")" || return
  printf -v "$_variable" %s "$_answer"
}

# signed_in: gcloud and kubectl share credentials, Terraform has its own.
signed_in() {
  step "signed in"
  ask REPLY "" gcloud auth print-access-token || die "gcloud has no account; run: gcloud auth login"
  [ -n "${GOOGLE_APPLICATION_CREDENTIALS:-}" ] || ask REPLY "" gcloud auth application-default print-access-token \
    || die "Terraform has no account; run: gcloud auth application-default login"
}

# synthesize STACK...: writes the stacks as JSON, and opens these. They share a cache of providers, each of 100 MB.
synthesize() {
  local stack
  step "the stacks, from TypeScript"
  export TF_PLUGIN_CACHE_DIR="${TF_PLUGIN_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sobel-distributed/terraform}"
  export TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE=1 TF_IN_AUTOMATION=1
  $DRY_RUN || mkdir -p "$TF_PLUGIN_CACHE_DIR" terraform/state out
  run bun install --cwd terraform --frozen-lockfile --silent
  run bun --no-env-file run terraform/main.ts
  for stack in "$@"; do open_state "$stack"; done
}

# in_place [BUCKET]: where a state is, for messages.
in_place() { if [ -n "${1-$STATE_BUCKET}" ]; then printf %s "the bucket ${1-$STATE_BUCKET}"; else printf %s "terraform/state on this machine"; fi; }

# open_state STACK: initializes it and reads its state into `known`. Refuses a state of another bucket, project or region, so
# no later call can reach one deployment with the settings of another.
open_state() {
  local stack="$1" record="$stacks/$1/.terraform/terraform.tfstate" bucket=""
  if [ -e "$record" ]; then
    [[ ! "$(<"$record")" =~ \"bucket\":\ *\"([^\"]+)\" ]] || bucket="${BASH_REMATCH[1]}"
    [ "$bucket" = "$STATE_BUCKET" ] || die "the state of the stack $stack is in $(in_place "$bucket"), not in $(in_place).
Use STATE_BUCKET=$bucket, or destroy that deployment first: STATE_BUCKET=$bucket bash pipelines/9-destroy.sh"
  fi
  # -reconfigure: only the folder's own path can differ now, as in a clone that was moved.
  run terraform -chdir="$stacks/$stack" init -input=false -reconfigure \
    || die "Terraform cannot open its state in $(in_place); if the lines above report no such bucket, run bash pipelines/1-gke.sh"
  ask "known[$stack]" '{"address":"<resources>"}' terraform -chdir="$stacks/$stack" show -json
  # The state of an older version lacks this output; 1-gke.sh adds it.
  [[ "${known[$stack]}" =~ \"deployment\":\{[^\}]*\"value\":\"([^\"]+)\" ]] || return 0
  [ "${BASH_REMATCH[1]}" = "$PROJECT/$REGION" ] || die "the stack $stack in $(in_place) is of ${BASH_REMATCH[1]}, not of $PROJECT/$REGION.
Use PROJECT=${BASH_REMATCH[1]%/*} REGION=${BASH_REMATCH[1]#*/}, or a second clone for another deployment"
}

# exists STACK: whether its state has resources.
exists() { [[ "${known[$1]}" == *'"address"'* ]]; }

# need STACK SCRIPT: fails unless the script that creates the stack has run.
need() { exists "$1" || die "there is no stack $1 in $(in_place); run bash pipelines/$2 first, or set STATE_BUCKET as in its run"; }

# raise STACK [-var=NAME=VALUE...]: creates or updates it. Refuses to replace what holds data.
raise() {
  local stack="$1" plan lost
  shift
  step "the stack $stack"
  run terraform -chdir="$stacks/$stack" plan -input=false -out=plan "$@"
  if [[ "$stack" = network || "$stack" = gke ]]; then
    ask plan "" terraform -chdir="$stacks/$stack" show -no-color plan
    lost="$(grep -E '(will|must) be (destroyed|replaced)' <<<"$plan" || true)"
    [ -z "$lost" ] || [ "${ALLOW_LOSS:-}" = yes ] || die "this plan destroys resources and their data:
$lost
Set REGION, ZONE and CLUSTER_LOCATION as in the first run. If you want the loss, set ALLOW_LOSS=yes"
  fi
  run terraform -chdir="$stacks/$stack" apply -input=false plan
}

# output VARIABLE STACK NAME SCRIPT: reads an output. Terraform prints a warning in its place if the last apply was cut short.
output() {
  local _shape='[a-z][a-z0-9-]{0,62}'
  case "$3" in
    registry) _shape="$REGION-docker\.pkg\.dev/$PROJECT/sobel" ;;
    location) _shape="$REGION(-[a-z])?" ;;
  esac
  ask "$1" "<$3>" terraform -chdir="$stacks/$2" output -raw "$3" || die "the stack $2 has no output $3; run bash pipelines/$4 again"
  $DRY_RUN || [[ "${!1}" =~ ^$_shape$ ]] \
    || die "the output $3 of the stack $2: expected ${_shape//\\/}, got ${!1@Q}; run bash pipelines/$4 again"
}

# cluster: connects kubectl to the cluster, by the control plane's DNS name.
cluster() {
  local name location
  step "credentials for the cluster"
  output name gke cluster 1-gke.sh
  output location gke location 1-gke.sh
  run gcloud container clusters get-credentials "$name" --location="$location" --project="$PROJECT" --dns-endpoint
}

# has_image REGISTRY NAME: whether the registry has the image under TAG. Lists all images, because the lookup of one
# fails in the same way if the image is missing and if the connection is broken.
has_image() {
  local found
  ask found "" gcloud artifacts docker images list "$1" --include-tags --format='csv[no-heading](package,tags)' \
    --project="$PROJECT" || die "cannot list the images of the registry $1; see the error above"
  tr -d '" ' <<<"$found" | tr ';' ',' | grep -E "^$1/$2,(.*,)?${TAG//./\\.}(,|\$)" >/dev/null
}

# images NAME...: fails unless the registry has them. Sets `registry`.
images() {
  local name
  step "the images, in the registry"
  output registry gke registry 1-gke.sh
  for name in "$@"; do
    has_image "$registry" "$name" || $DRY_RUN || die "the registry has no $name:$TAG; run bash pipelines/2-images.sh first"
  done
}

# address VARIABLE SERVICE: waits for the address of a load balancer, which comes after about a minute.
address() {
  local _found="" _tries
  for ((_tries = 0; _tries < 60; _tries++)); do
    ask _found "<address of $2>" kubectl --namespace=sobel get service "$2" \
      --output=jsonpath='{.status.loadBalancer.ingress[0].ip}' || die "there is no Service $2; run bash pipelines/3-services.sh first"
    [ -z "$_found" ] || break
    sleep "${POLL_SECONDS:-5}"
  done
  [ -n "$_found" ] || die "the Service $2 has no address after 5 minutes; see: kubectl --namespace=sobel describe service $2"
  $DRY_RUN || [[ "$_found" =~ ^[0-9]+(\.[0-9]+){3}$ ]] || die "the Service $2: expected an IPv4 address, got ${_found@Q}"
  printf -v "$1" %s "$_found"
}

# secret VARIABLE NAME KEY: reads a Secret of the cluster.
secret() {
  local _encoded
  ask _encoded "$(base64 <<<"<$3>")" kubectl --namespace=sobel get secret "$2" --output=jsonpath="{.data.$3}" \
    || die "there is no Secret $2; run bash pipelines/3-services.sh first"
  printf -v "$1" %s "$(base64 -d <<<"$_encoded")"
}

# worker_group NUMBER: sets the number of VMs, and waits until GET /workers lists exactly these. The request is made
# inside a coordinator's pod, so its token stays in the cluster.
worker_group() {
  local rabbitmq redis username group joined="" before="" tries
  step "the addresses and the user for the VMs"
  address rabbitmq rabbitmq-internal
  address redis redis-internal
  secret username rabbitmq username
  raise workers -var="rabbitmq_address=$rabbitmq" -var="redis_address=$redis" -var="rabbitmq_username=$username"
  step "the VMs, started or replaced"
  output group workers group 5-workers.sh
  run gcloud compute instance-groups managed wait-until "$group" --version-target-reached --timeout=1200 \
    --zone="$ZONE" --project="$PROJECT"
  step "$1 worker VMs in GET /workers"
  for ((tries = 0; tries < 120; tries++)); do
    if ask joined "$1" kubectl --namespace=sobel exec --stdin deployment/coordinator -- bun run - <<'TS'; then
const { PORT, AUTH_TOKEN } = process.env;
const headers = { authorization: `Bearer ${AUTH_TOKEN}` };
const { workers } = await (await fetch(`http://127.0.0.1:${PORT}/workers`, { headers })).json();
console.log(workers.filter(({ name }) => name.startsWith("sobel-worker-")).length);
TS
      $DRY_RUN || [ "$joined" = "$before" ] || say "    $joined of $1"
      [ "$joined" != "$1" ] || return 0
      before="$joined"
    fi
    sleep "${POLL_SECONDS:-5}"
  done
  say "    the logs of the VMs:
      gcloud compute instances list --project=$PROJECT --filter='name~^sobel-worker'
      gcloud compute ssh NAME --zone=$ZONE --project=$PROJECT --tunnel-through-iap --command='journalctl -u sobel-worker -n 50'"
  die "after 10 minutes GET /workers lists ${joined:-no} worker VMs, expected $1; read the logs with the commands above"
}
