#!/usr/bin/env bash
# Pipeline 1.1 of the course: RabbitMQ, Redis, the coordinators and the worker pods. About five minutes.
#
#   PROJECT=my-project-123 bash pipelines/3-services.sh              creates or updates them
#   PROJECT=my-project-123 PAGE_SOURCE_RANGES=203.0.113.7/32 bash pipelines/3-services.sh      opens the page to this range
#   PROJECT=my-project-123 bash pipelines/3-services.sh --dry-run    prints the calls
#
# Creates the two passwords once and keeps them in Secret Manager, where the worker VMs read them too. They appear on no
# command line, in no file and in no output. AUTH_TOKEN, if set, is the token that the coordinator requires of its clients.
# Costs about 0.03 USD an hour for disks and load balancers: two, or three with an open page.
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
no_arguments
begin gcloud terraform kubectl gke-gcloud-auth-plugin

say "Pipeline 1.1: the services
  RabbitMQ, Redis, coordinators and workers from k8s/, images $TAG
  the page is open to ${PAGE_SOURCE_RANGES:-this cluster only; reach it with kubectl port-forward}
  Costs about 0.03 USD an hour for load balancers and disks. Takes about five minutes.
"
signed_in
synthesize gke
need gke 1-gke.sh
images sobel-coordinator sobel-worker
cluster

# password VARIABLE SERVER: reads it from Secret Manager, and creates it there first if there is none.
password() {
  local name="sobel-$2-password" versions
  ask versions "" gcloud secrets versions list "$name" --filter=state=ENABLED --limit=1 --format='value(name)' \
    --project="$PROJECT" || die "cannot read the versions of the secret $name; see the error above"
  [ -n "$versions" ] || run gcloud secrets versions add "$name" --data-file=- --project="$PROJECT" < <(random)
  ask "$1" "" gcloud secrets versions access latest --secret="$name" --project="$PROJECT" \
    || die "cannot read the secret $name; see the error above"
}

# random: 24 bytes as hexadecimal digits, which never need quotes.
random() { head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

# same SERVER PASSWORD: fails if the Secret in the cluster, which secrets.sh keeps, differs from Secret Manager.
same() {
  local current
  secret current "$1" password
  $DRY_RUN || [ "$current" = "$2" ] || die "the Secret $1 in the cluster differs from sobel-$1-password in Secret Manager,
so the server would refuse the VMs. The server knows the cluster's password. Copy it to Secret Manager:
  kubectl --kubeconfig=out/kubeconfig --namespace=sobel get secret $1 --output=jsonpath='{.data.password}' | base64 -d \\
    | gcloud secrets versions add sobel-$1-password --project=$PROJECT --data-file=-"
}

step "the passwords, in Secret Manager"
password RABBITMQ_PASSWORD rabbitmq
password REDIS_PASSWORD redis

step "the passwords, in the cluster"
token=""
export RABBITMQ_PASSWORD REDIS_PASSWORD
run bash k8s/secrets.sh
same rabbitmq "$RABBITMQ_PASSWORD"
same redis "$REDIS_PASSWORD"
unset RABBITMQ_PASSWORD REDIS_PASSWORD
secret token coordinator auth-token
$DRY_RUN || [ -z "${AUTH_TOKEN:-}" ] || [ "$token" = "$AUTH_TOKEN" ] \
  || die "the coordinators have another token than AUTH_TOKEN, or none. To change it, delete the old one, run this again, and
restart them:
  kubectl --kubeconfig=out/kubeconfig --namespace=sobel delete secret coordinator
  kubectl --kubeconfig=out/kubeconfig --namespace=sobel rollout restart deployment/coordinator"

# An open page without a token lets everyone in these ranges upload pictures and kill jobs.
$DRY_RUN || [ -z "$PAGE_SOURCE_RANGES" ] || [ -n "$token" ] \
  || die "PAGE_SOURCE_RANGES opens the page, and the coordinators require no token. Choose one, and run:
  AUTH_TOKEN=\"\$(openssl rand -hex 24)\" PROJECT=$PROJECT PAGE_SOURCE_RANGES=$PAGE_SOURCE_RANGES bash pipelines/3-services.sh"

# manifests: k8s/*.yaml with the images of the registry. GKE taints nodes of arm64.
manifests() {
  local file tolerated=""
  [ "$ARCHITECTURE" != arm64 ] || tolerated='s#^      serviceAccountName: .*#&\n      tolerations: [{ key: kubernetes.io/arch, value: arm64 }]#'
  for file in k8s/*.yaml; do
    printf -- '---\n'
    sed -E "s#image: *\"?sobel-(coordinator|worker):dev\"?#image: $registry/sobel-\1:$TAG#; $tolerated" "$file"
  done
}

step "the manifests of k8s/"
say "    k8s/*.yaml, with the images $registry/sobel-…:$TAG"
all="$($DRY_RUN || manifests)"
run kubectl apply --filename=- <<<"$all"

if [ -n "$PAGE_SOURCE_RANGES" ]; then
  step "the page, open to $PAGE_SOURCE_RANGES"
  run kubectl apply --filename=- <<YAML
apiVersion: v1
kind: Service
metadata:
  name: coordinator-public
  namespace: sobel
  labels: { app.kubernetes.io/name: coordinator, app.kubernetes.io/part-of: sobel }
spec:
  type: LoadBalancer
  loadBalancerSourceRanges: [$PAGE_SOURCE_RANGES]
  selector: { app.kubernetes.io/name: coordinator }
  ports: [{ name: http, port: 80, targetPort: http }]
YAML
else
  step "the page, without a public address"
  run kubectl --namespace=sobel delete service coordinator-public --ignore-not-found
fi

step "the pods, until they are ready"
for workload in statefulset/rabbitmq statefulset/redis deployment/coordinator deployment/worker; do
  run kubectl --namespace=sobel rollout status "$workload" --timeout=10m
done

step "addresses"
address rabbitmq rabbitmq-internal
address redis redis-internal
say "    for the worker VMs: RabbitMQ $rabbitmq:5672, Redis $redis:6379"
if [ -n "$PAGE_SOURCE_RANGES" ]; then
  address page coordinator-public
  page="http://$page"
  say "    the page: $page"
else
  page="http://127.0.0.1:8080"
  say "    the page: $page, while this runs:
      kubectl --kubeconfig=out/kubeconfig --namespace=sobel port-forward service/coordinator 8080:80"
fi
say "
Expect: kubectl --kubeconfig=out/kubeconfig --namespace=sobel get pods shows all of them Running

Next: bash pipelines/4-firewalls.sh     (or try it first: bash pipelines/6-smoke.sh $page)"
