#!/usr/bin/env bash
# The passwords in the cluster: makes the namespace and the Secrets that the manifests name. What is there already is kept,
# so it may be run again at any time. Nothing secret is printed, stored in a file, or passed as an argument.
#
#   bash k8s/secrets.sh                                                  passwords by chance, no token
#   AUTH_TOKEN=… bash k8s/secrets.sh                                     sending, cancelling and /workers want it
#   RABBITMQ_PASSWORD=… REDIS_PASSWORD=… bash k8s/secrets.sh             passwords that are kept elsewhere too
#
#   Secret        keys
#   rabbitmq      username, password
#   redis         password
#   coordinator   auth-token (empty: no token is asked for)
#
# Needs kubectl, and a cluster that it reaches. To change one, delete it and run this again, then restart what reads it;
# RabbitMQ keeps the password of its first start: `rabbitmqctl change_password sobel …` changes it there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

command -v kubectl >/dev/null || die "kubectl is missing: https://kubernetes.io/docs/tasks/tools/"
# Passwords become part of addresses.
for name in RABBITMQ_PASSWORD REDIS_PASSWORD; do
  value="${!name:-}"
  [[ "$value" =~ ^[A-Za-z0-9._~-]*$ ]] || die "$name: expected letters, digits and -._~ only"
done
# As the coordinator has it.
[[ "${AUTH_TOKEN:-}" =~ ^[!-~]*$ ]] || die "AUTH_TOKEN: expected letters, digits and punctuation of ASCII"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# secret NAME KEY VALUE [KEY VALUE]
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
  echo "    $name: made"
}

echo "==> secrets in the namespace sobel"
kubectl apply -f 00-namespace.yaml >/dev/null
secret rabbitmq username sobel password "${RABBITMQ_PASSWORD:-$(random)}"
secret redis password "${REDIS_PASSWORD:-$(random)}"
secret coordinator auth-token "${AUTH_TOKEN:-}"
echo "Next: kubectl apply -f k8s/"
