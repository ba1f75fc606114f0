#!/bin/bash
# Runs the worker on a VM: fetches the two passwords with the VM's own account, then becomes `docker run`. Started by the
# unit sobel-worker, which starts it again whenever it ends.
#
# Written for Container-Optimized OS, which has bash, curl, sed, base64 and Docker, but neither gcloud nor jq nor Python.
# A password is never on a command line or in a file: curl reads the token from a pipe, and Docker takes the two
# addresses that hold passwords from this script's environment, by name.
#
# From /etc/sobel/environment: PROJECT, IMAGE, RABBITMQ_ADDRESS, RABBITMQ_USERNAME, REDIS_ADDRESS, HEALTH_PORT.
set -euo pipefail

fail() {
  echo "sobel-worker: $*; trying again in a few seconds" >&2
  exit 1
}

# get URL: headers come from stdin. What fails in passing is tried again by curl itself.
get() { curl --fail --silent --show-error --max-time 20 --retry 5 --retry-connrefused --header @- "$1"; }

# field NAME: the string of that name in the JSON on stdin.
field() { tr -d '\n' | sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; }

# secret NAME: its latest version, from Secret Manager.
secret() {
  local value
  value="$(printf 'Authorization: Bearer %s\n' "$token" \
    | get "https://secretmanager.googleapis.com/v1/projects/$PROJECT/secrets/$1/versions/latest:access" \
    | field data | base64 -d)" || fail "the secret $1 could not be read"
  # It becomes part of a URL.
  [[ "$value" =~ ^[A-Za-z0-9._~-]+$ ]] || fail "the secret $1 is empty, or has a character that a URL cannot hold"
  printf '%s' "$value"
}

token="$(echo 'Metadata-Flavor: Google' \
  | get http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token \
  | field access_token)" || fail "the metadata server gave no token"
[ -n "$token" ] || fail "the metadata server gave no token"
rabbitmq_password="$(secret sobel-rabbitmq-password)"
redis_password="$(secret sobel-redis-password)"

# Docker's settings and its helper's; /root cannot be written to.
export HOME="$RUNTIME_DIRECTORY"
docker-credential-gcr configure-docker --registries "${IMAGE%%/*}" >/dev/null || fail "Docker could not be set up"
docker pull --quiet "$IMAGE" || docker image inspect "$IMAGE" >/dev/null || fail "the image $IMAGE could not be pulled"
docker rm --force sobel-worker >/dev/null 2>&1 || true # left behind by a power cut

export RABBITMQ_URL="amqp://$RABBITMQ_USERNAME:$rabbitmq_password@$RABBITMQ_ADDRESS:5672"
export REDIS_URL="redis://:$redis_password@$REDIS_ADDRESS:6379"
exec docker run --rm --name sobel-worker \
  --env RABBITMQ_URL --env REDIS_URL \
  --env WORKER_NAME="${HOSTNAME%%.*}" --env HOST=0.0.0.0 --env METRICS_PORT="$HEALTH_PORT" \
  --publish "$HEALTH_PORT:$HEALTH_PORT" \
  --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
  --log-opt max-size=10m --log-opt max-file=2 \
  "$IMAGE"
