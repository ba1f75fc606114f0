#!/usr/bin/env bash
# Runs the whole system in a Kubernetes of its own on this machine: creates the cluster, builds and loads the images, applies
# k8s/, runs the smoke test, then serves the page. Costs nothing.
#
#   bash pipelines/0-cluster.sh                      with kind, minikube or k3d: the first that is installed
#   CLUSTER_TOOL=k3d bash pipelines/0-cluster.sh     with this one
#   WORKERS=5 PORT=9000 bash pipelines/0-cluster.sh  five worker pods (default 3), another port than 8080
#   bash pipelines/0-cluster.sh --once               exits after the smoke test; the cluster stays
#   bash pipelines/0-cluster.sh --down               removes the cluster and all its data
#
# Needs Docker, kubectl, one of the three tools, and 4 GB of memory. AUTH_TOKEN, if set, is the token that the coordinator
# requires. Ctrl-C stops the page, not the cluster. Safe to run again: it then builds, loads and restarts the programs.
set -euo pipefail
# shellcheck source=SCRIPTDIR/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(dirname "$script_path")/.."

PORT="${PORT:-8080}"
WORKERS="${WORKERS:-3}"
once=false
down=false
for argument in "$@"; do
  case "$argument" in
    --once) once=true ;;
    --down) down=true ;;
    -h | --help) usage && exit ;;
    *) die "unknown argument $argument; expected nothing, --once, --down or --help" ;;
  esac
done
if ! [[ "$PORT" =~ ^[1-9][0-9]{0,4}$ ]] || [ "$PORT" -gt 65535 ]; then die "PORT: expected 1 to 65535, got $PORT"; fi
[[ "$WORKERS" =~ ^[0-9]{1,3}$ ]] || die "WORKERS: expected a number of pods, got $WORKERS"

tool="${CLUSTER_TOOL:-}"
for name in kind minikube k3d; do
  [ -n "$tool" ] || ! have "$name" || tool="$name"
done
case "$tool" in
  kind | minikube | k3d) have "$tool" || die "CLUSTER_TOOL is $tool, which is not installed" ;;
  "") die "found no kind, minikube or k3d; install one, such as kind: https://kind.sigs.k8s.io/docs/user/quick-start/" ;;
  *) die "CLUSTER_TOOL: expected kind, minikube or k3d, got $tool" ;;
esac

# kubectl has a kubeconfig of its own here, so it cannot reach another cluster of yours.
mkdir -p out
export KUBECONFIG="$PWD/out/kubeconfig-$tool"
images=(sobel-coordinator:dev sobel-worker:dev)

run() {
  printf '    %s\n' "$*"
  "$@"
}

# create: creates the cluster unless it exists, and writes its kubeconfig.
create() {
  case "$tool" in
    kind)
      if kind get clusters 2>/dev/null | grep -qx sobel; then
        run kind export kubeconfig --name sobel --kubeconfig "$KUBECONFIG"
      else
        run kind create cluster --name sobel --kubeconfig "$KUBECONFIG" --wait 180s
      fi
      ;;
    minikube) run minikube start --profile sobel --cni calico ;;
    k3d)
      k3d cluster get sobel >/dev/null 2>&1 \
        || run k3d cluster create sobel --kubeconfig-update-default=false --kubeconfig-switch-context=false --wait
      run k3d kubeconfig write sobel --output "$KUBECONFIG"
      ;;
  esac
}

load() {
  case "$tool" in
    kind) run kind load docker-image "${images[@]}" --name sobel ;;
    minikube) for name in "${images[@]}"; do run minikube image load "$name" --profile sobel; done ;;
    k3d) run k3d image import "${images[@]}" --cluster sobel ;;
  esac
}

if $down; then
  echo "==> without the cluster sobel, of $tool"
  case "$tool" in
    kind) run kind delete cluster --name sobel --kubeconfig "$KUBECONFIG" ;;
    minikube) run minikube delete --profile sobel ;;
    k3d) run k3d cluster delete sobel ;;
  esac
  rm -f "$KUBECONFIG"
  exit
fi

for name in docker kubectl; do have "$name" || die "$name is missing; install it and start again"; done
docker info >/dev/null 2>&1 || die "Docker is installed, but does not answer; start it, or see: docker info"
if (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then die "port $PORT is in use; choose another with PORT"; fi

echo "==> the cluster sobel, of $tool"
create
echo "==> the images"
for name in coordinator worker; do run docker build --file="Dockerfile.$name" --tag="sobel-$name:dev" .; done
load
echo "==> the services"
run bash k8s/secrets.sh
running="$(kubectl --namespace=sobel get deployment worker --ignore-not-found --output=name)"
run kubectl apply --filename=k8s/
# The images have the same name as before, so only a restart takes the new ones.
[ -z "$running" ] || run kubectl --namespace=sobel rollout restart deployment/coordinator deployment/worker
run kubectl --namespace=sobel scale deployment/worker --replicas="$WORKERS"
for workload in statefulset/rabbitmq statefulset/redis deployment/coordinator deployment/worker; do
  run kubectl --namespace=sobel rollout status "$workload" --timeout=10m \
    || die "$workload is not ready; see: KUBECONFIG=$KUBECONFIG kubectl --namespace=sobel describe pods"
done

echo "==> the smoke test"
AUTH_TOKEN="$(kubectl --namespace=sobel get secret coordinator --output=jsonpath='{.data.auth-token}' | base64 -d)"
export AUTH_TOKEN
forward=(kubectl --namespace=sobel port-forward service/coordinator "$PORT:80")
"${forward[@]}" >/dev/null &
forwarding=$!
trap 'kill "$forwarding" 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
run bash pipelines/6-smoke.sh "http://127.0.0.1:$PORT" --wait 60

again="KUBECONFIG=$KUBECONFIG ${forward[*]}"
echo "
To open the page again: $again
To remove the cluster:  CLUSTER_TOOL=$tool bash pipelines/0-cluster.sh --down"
$once && exit
echo "==> the page: http://127.0.0.1:$PORT/   (Ctrl-C stops it; the cluster stays)"
wait "$forwarding" || die "the connection to the coordinator ended, as when its pod is replaced; open it again: $again"
