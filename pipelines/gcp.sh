# shellcheck shell=bash
# What the pipelines on Google Cloud share: settings, the report, steps that say which of them failed, stacks, the cluster.
# Sourced, not run. Each pipeline may be run again: what is there already stays, and what is missing is made.
#
# Every call that changes something goes through `run`, every one that asks through `ask`: they are printed, and with
# --dry-run not made. What is asked for is put into a variable, whose name comes first: in a `$(…)` a failure would not
# know its step. The kubeconfig is one of our own, so no other cluster of yours can be meant by mistake.

pipelines="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
project="$(dirname "$pipelines")"
# shellcheck source=SCRIPTDIR/lib.sh
source "$pipelines/lib.sh"
cd "$project" || exit

script="$(basename "$0")"
stacks=terraform/cdktf.out/stacks
export KUBECONFIG="$project/out/kubeconfig"
DRY_RUN=false
doing="" # the step that runs
calling="" # its last call
forwarder=""
forward_log=""
declare -A initialized

say() { printf '%s\n' "$*"; }

# usage: the comment that a pipeline begins with.
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

# options ARGUMENT...: takes --dry-run and --help out; what remains is in `arguments`.
options() {
  local argument
  arguments=()
  for argument in "$@"; do
    case "$argument" in
      --dry-run) DRY_RUN=true ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) arguments+=("$argument") ;;
    esac
  done
}

no_arguments() { [ ${#arguments[@]} -eq 0 ] || die "unknown argument ${arguments[0]}; expected nothing, --dry-run or --help"; }

# begin TOOL...: settings and tools are checked before anything is done.
begin() {
  local tool missing=() settings
  : "${PROJECT:?the id of your Google Cloud project, as in PROJECT=my-project-123 bash pipelines/$script}"
  ensure_home
  ensure_bun
  settings="$(bun --no-env-file run terraform/settings.ts)" || exit 1
  set -a # what is checked here is what the stacks are to see
  eval "$settings"
  set +a
  for tool in "$@"; do have "$tool" || missing+=("$tool"); done
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  if $DRY_RUN; then
    say "(Dry run: what follows is printed, not done.${missing[*]:+ Not installed here: ${missing[*]}.})"
  elif [ ${#missing[@]} -gt 0 ]; then
    for tool in "${missing[@]}"; do printf 'missing: %s: %s\n' "$tool" "$(origin "$tool")" >&2; done
    exit 1
  fi
}

# origin TOOL: how it is installed.
origin() {
  case "$1" in
    gcloud) echo "https://cloud.google.com/sdk/docs/install" ;;
    kubectl | gke-gcloud-auth-plugin) echo "gcloud components install $1, or the package of that name" ;;
    terraform) echo "https://developer.hashicorp.com/terraform/install (1.5 or newer)" ;;
    docker) echo "https://docs.docker.com/engine/install/" ;;
    *) echo "install it with your system's packages" ;;
  esac
}

# finish: whatever ends a pipeline, nothing of it goes on running, and a failure says where, and what to do.
finish() {
  local code=$?
  trap - EXIT
  [ -z "$forwarder" ] || kill "$forwarder" 2>/dev/null || true
  [ -z "$forward_log" ] || rm -f "$forward_log"
  if [ "$code" -ne 0 ] && [ -n "$doing" ]; then
    {
      printf '\n'
      case "$code" in
        130 | 143) printf 'INTERRUPTED: %s\n' "$doing" ;;
        *) printf 'FAILED: %s (exit code %d)\n' "$doing" "$code" ;;
      esac
      [ -z "$calling" ] || printf '  the last call: %s\n' "$calling"
      printf '  why: see the lines above; pipelines/README.md has a list of causes\n'
      printf '  then go on with the same command, which repeats only what is not done yet:\n'
      printf '    bash pipelines/%s%s\n' "$script" "${arguments[*]:+ ${arguments[*]}}"
    } >&2
  fi
  exit "$code"
}

step() {
  doing="$1"
  calling=""
  say "==> $doing"
}

# done_with NEXT...: the end of a pipeline.
done_with() {
  doing=""
  say ""
  say "Next: $*"
}

# shown COMMAND...: as one would type it.
shown() {
  local word option text=""
  for word in "$@"; do
    option=""
    if ! [[ "$word" =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      if [[ "$word" =~ ^(--?[a-z-]+=)(.*)$ ]]; then
        option="${BASH_REMATCH[1]}"
        word="${BASH_REMATCH[2]}"
      fi
      word="'${word//\'/\'\\\'\'}'"
    fi
    text+=" $option$word"
  done
  printf '%s' "${text# }"
}

# run COMMAND...: makes a call that changes something.
run() {
  calling="$(shown "$@")"
  say "    $calling"
  $DRY_RUN || "$@"
}

# ask VARIABLE PLACEHOLDER COMMAND...: puts the answer of a call into a variable; in a dry run the placeholder.
ask() {
  local _variable="$1" _answer="$2" _calling
  shift 2
  _calling="$(shown "$@")"
  # What is asked again and again, until it is as wanted, is shown once.
  [ "$_calling" = "$calling" ] || say "    $_calling"
  calling="$_calling"
  $DRY_RUN || _answer="$("$@")" || return
  printf -v "$_variable" %s "$_answer"
}

# signed_in: for gcloud and kubectl, and for Terraform, which has credentials of its own.
signed_in() {
  step "signed in"
  ask REPLY "" gcloud auth print-access-token || die "gcloud has no account; run: gcloud auth login"
  [ -n "${GOOGLE_APPLICATION_CREDENTIALS:-}" ] || ask REPLY "" gcloud auth application-default print-access-token \
    || die "Terraform has no account; run: gcloud auth application-default login"
}

# synthesize: writes the stacks down as JSON, from the settings.
synthesize() {
  step "the stacks, from TypeScript"
  # A Terraform provider is 100 MB, and each stack would fetch its own.
  export TF_PLUGIN_CACHE_DIR="${TF_PLUGIN_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sobel-distributed/terraform}"
  export TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE=1 TF_IN_AUTOMATION=1
  $DRY_RUN || mkdir -p "$TF_PLUGIN_CACHE_DIR" terraform/state
  run bun install --cwd terraform --frozen-lockfile --silent
  run bun --no-env-file run terraform/main.ts
}

# initialize STACK: once is enough.
initialize() {
  [ -z "${initialized[$1]:-}" ] || return 0
  run terraform -chdir="$stacks/$1" init -input=false
  initialized[$1]=yes
}

# raise STACK [-var=NAME=VALUE...]: makes it what it is to be. Nothing that holds data is replaced on the way.
raise() {
  local stack="$1" planned lost
  shift
  step "the stack $stack"
  initialize "$stack"
  run terraform -chdir="$stacks/$stack" plan -input=false -out=plan "$@"
  if [[ "$stack" = network || "$stack" = gke ]]; then
    ask planned "" terraform -chdir="$stacks/$stack" show -no-color plan
    lost="$(grep -E '(will|must) be (destroyed|replaced)' <<<"$planned" || true)"
    [ -z "$lost" ] || [ "${ALLOW_LOSS:-}" = yes ] || die "this would destroy what is there, with its data:
$lost
Set REGION, ZONE and CLUSTER_LOCATION as they were when it was made, or, if that is what you want, ALLOW_LOSS=yes"
  fi
  run terraform -chdir="$stacks/$stack" apply -input=false plan
}

# state VARIABLE STACK: all that Terraform knows of a stack, as JSON. It may never have been raised.
state() {
  initialize "$2"
  ask "$1" '{"address":"<resources>"}' terraform -chdir="$stacks/$2" show -json
}

# fell STACK [-var=NAME=VALUE...]: destroys it; nothing happens where it never was.
fell() {
  local stack="$1" known
  shift
  step "without the stack $stack"
  state known "$stack"
  # Not for Terraform to find out: it would first look up the stacks below, which may not be there either.
  if [[ "$known" != *'"address"'* ]]; then
    say "    is not there"
    return
  fi
  run terraform -chdir="$stacks/$stack" destroy -input=false -auto-approve "$@"
}

# output VARIABLE STACK NAME: what a stack tells the later pipelines.
output() {
  initialize "$2"
  ask "$1" "<$3>" terraform -chdir="$stacks/$2" output -raw "$3" || die "the stack $2 is not there yet; run pipelines/1-gke.sh first"
}

# cluster: from here on kubectl speaks to our cluster, through the control plane's DNS name.
cluster() {
  local name location
  step "credentials for the cluster"
  output name gke cluster
  output location gke location
  $DRY_RUN || mkdir -p "$(dirname "$KUBECONFIG")"
  run gcloud container clusters get-credentials "$name" --location="$location" --project="$PROJECT" --dns-endpoint
}

# has_image REGISTRY NAME: whether it has that image under TAG.
has_image() {
  local found
  # All are asked for: a single one that is not there would look like a registry that cannot be asked.
  ask found "" gcloud artifacts docker images list "$1" --include-tags --format='csv[no-heading](package,tags)' \
    --project="$PROJECT" || die "the registry $1 could not be asked"
  tr -d '" ' <<<"$found" | tr ';' ',' | grep -E "^$1/$2,(.*,)?${TAG//./\\.}(,|\$)" >/dev/null
}

# image_is_there REGISTRY NAME
image_is_there() { has_image "$1" "$2" || $DRY_RUN || die "the registry has no $2:$TAG; run pipelines/2-images.sh first"; }

# address VARIABLE SERVICE: of a load balancer, which takes a minute to get one.
address() {
  local _found="" _tries
  for ((_tries = 0; _tries < 60; _tries++)); do
    ask _found "<address of $2>" kubectl --namespace=sobel get service "$2" \
      --output=jsonpath='{.status.loadBalancer.ingress[0].ip}' || die "there is no Service $2; run pipelines/3-services.sh first"
    [ -z "$_found" ] || break
    sleep "${POLL_SECONDS:-5}"
  done
  [ -n "$_found" ] || die "the Service $2 has got no address; see: kubectl --namespace=sobel describe service $2"
  printf -v "$1" %s "$_found"
}

# secret VARIABLE NAME KEY PLACEHOLDER: of a Secret in the cluster.
secret() {
  local _encoded
  ask _encoded "$(base64 <<<"$4")" kubectl --namespace=sobel get secret "$2" --output=jsonpath="{.data.$3}" \
    || die "there is no Secret $2; run pipelines/3-services.sh first"
  printf -v "$1" %s "$(base64 -d <<<"$_encoded")"
}

# worker_group NUMBER: raises the stack workers with so many VMs, and waits until all of them work, and no others.
worker_group() {
  local rabbitmq redis username group
  step "what the VMs need"
  address rabbitmq rabbitmq-internal
  address redis redis-internal
  secret username rabbitmq username "<username>"
  raise workers -var="rabbitmq_address=$rabbitmq" -var="redis_address=$redis" -var="rabbitmq_username=$username"
  step "the VMs, started or replaced"
  output group workers group
  run gcloud compute instance-groups managed wait-until "$group" --version-target-reached --timeout=1200 \
    --zone="$ZONE" --project="$PROJECT"
  joined "$1"
}

# forward: the coordinator on a port of this machine, which stands in `origin_url`. It ends with the pipeline.
forward() {
  local tries
  origin_url="http://127.0.0.1:<port>"
  calling="kubectl --namespace=sobel port-forward service/coordinator :80"
  say "    $calling &"
  $DRY_RUN && return
  forward_log="$(mktemp)"
  kubectl --namespace=sobel port-forward service/coordinator :80 >"$forward_log" 2>&1 &
  forwarder=$!
  for ((tries = 0; tries < 100; tries++)); do
    origin_url="$(sed -nE '/^Forwarding from 127/{s#^Forwarding from (127\.0\.0\.1:[0-9]+) .*#http://\1#p;q}' "$forward_log")"
    [ -z "$origin_url" ] || return 0
    kill -0 "$forwarder" 2>/dev/null || break
    sleep 0.2
  done
  cat "$forward_log" >&2
  die "no way to the coordinator: kubectl port-forward said the lines above"
}

# worker_vms TOKEN: how many of them have joined the fleet. The token goes by a pipe: command lines can be seen by others.
worker_vms() {
  local answer
  answer="$(printf 'Authorization: Bearer %s\n' "$1" | curl --fail --silent --show-error --max-time 10 --noproxy '*' \
    --header @- "$origin_url/workers")" || return
  grep -oE '"name":"sobel-worker-[^"]*"' <<<"$answer" | sort -u | grep -c . || true
}

joined() {
  local wanted="$1" now="" before="" tries token
  step "$wanted worker VMs in GET /workers"
  secret token coordinator auth-token ""
  forward
  say "    curl $origin_url/workers, until it has $wanted"
  $DRY_RUN && return
  for ((tries = 0; tries < 120; tries++)); do
    if now="$(worker_vms "$token")"; then
      [ "$now" = "$before" ] || say "    $now of $wanted"
      [ "$now" != "$wanted" ] || return 0
      before="$now"
    elif ! kill -0 "$forwarder" 2>/dev/null; then
      forward # a rollout took the pod away that the port led to
    fi
    sleep "${POLL_SECONDS:-5}"
  done
  say "    what the VMs themselves say:
      gcloud compute instances list --project=$PROJECT --filter='name~^sobel-worker'
      gcloud compute ssh NAME --zone=$ZONE --project=$PROJECT --tunnel-through-iap --command='journalctl -u sobel-worker -n 50'"
  die "after 10 minutes there are ${now:-no} worker VMs in GET /workers, not $wanted"
}
