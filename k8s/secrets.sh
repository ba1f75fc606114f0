#!/usr/bin/env bash
# Creates the namespace and the Secrets that the manifests refer to. It keeps existing Secrets, so it is safe to run again.
# It never prints a secret, writes one to a file, or passes one as an argument.
#
#   bash k8s/secrets.sh                                                  random passwords, no token
#   AUTH_TOKEN=… bash k8s/secrets.sh                                     uploads, cancelling and /workers require it
#   RABBITMQ_PASSWORD=… REDIS_PASSWORD=… bash k8s/secrets.sh             given passwords
#
#   Secret          keys
#   rabbitmq        username, password
#   redis           password
#   coordinator     auth-token (empty: no token is required)
#   erlang-cookie   cookie (the nodes of k8s-ha/ trust each other by it)
#
# Needs kubectl with access to a cluster. To change a secret: delete it, run this again, restart the pods that read it.
# RabbitMQ keeps the password of its first start: change it there with `rabbitmqctl change_password sobel …`.
set -euo pipefail
# No `cd`: KUBECONFIG may be a relative path.
folder="$(dirname "${BASH_SOURCE[0]}")"

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

command -v kubectl >/dev/null || die "kubectl is missing; install it: https://kubernetes.io/docs/tasks/tools/"
# Passwords become part of URLs.
for name in RABBITMQ_PASSWORD REDIS_PASSWORD; do
  value="${!name:-}"
  [[ "$value" =~ ^[A-Za-z0-9._~-]*$ ]] || die "$name: expected only letters, digits and -._~, got another character"
done
# The coordinator accepts no other token.
[[ "${AUTH_TOKEN:-}" =~ ^[!-~]*$ ]] || die "AUTH_TOKEN: expected only ASCII letters, digits and punctuation, got another character"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# secret NAME KEY VALUE [KEY VALUE]: creates a Secret, unless there is one of that name.
secret() {
  local name="$1" data=""
  shift
  if [ -n "$(kubectl -n sobel get secret "$name" --ignore-not-found -o name)" ]; then
    echo "    $name: kept"
    return
  fi
  while [ $# -gt 0 ]; do
    data+="${data:+, }\"$1\": \"$(printf %s "$2" | base64 | tr -d '\n')\""
    shift 2
  done
  kubectl create -f - >/dev/null <<JSON
{
  "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
  "metadata": { "name": "$name", "namespace": "sobel", "labels": { "app.kubernetes.io/part-of": "sobel" } },
  "data": { $data }
}
JSON
  echo "    $name: created"
}

echo "==> secrets in the namespace sobel"
kubectl apply -f "$folder/00-namespace.yaml" >/dev/null
secret rabbitmq username sobel password "${RABBITMQ_PASSWORD:-$(random)}"
secret redis password "${REDIS_PASSWORD:-$(random)}"
secret coordinator auth-token "${AUTH_TOKEN:-}"
secret erlang-cookie cookie "$(random)"
echo "Next: kubectl apply -f k8s/, or -k k8s-ha/ for three nodes of each"
