#!/bin/bash
# Runs the worker on a VM: reads the two passwords with the VM's own account, then executes `docker run`. The unit
# sobel-worker starts it, and starts it again whenever it exits.
#
# For Container-Optimized OS, which has bash, curl, sed, base64 and Docker, but neither gcloud nor jq nor Python. No password
# is on a command line or in a file: curl reads the token from a pipe, and Docker reads the two URLs with passwords from this
# script's environment.
#
# From /etc/sobel/environment: PROJECT, IMAGE, RABBITMQ_ADDRESS, RABBITMQ_USERNAME, REDIS_ADDRESS, HEALTH_PORT.
set -euo pipefail

fail() {
  echo "sobel-worker: $*; retrying in 5 s" >&2
  exit 1
}

# get URL: headers come from stdin. curl retries transient errors.
get() { curl --fail --silent --show-error --max-time 20 --retry 5 --retry-connrefused --header @- "$1"; }

# field NAME: a string in the JSON on stdin.
field() { tr -d '\n' | sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; }

# secret NAME: the latest version in Secret Manager.
secret() {
  local value
  value="$(printf 'Authorization: Bearer %s\n' "$token" \
    | get "https://secretmanager.googleapis.com/v1/projects/$PROJECT/secrets/$1/versions/latest:access" \
    | field data | base64 -d)" || fail "the secret $1 could not be read"
  # The value becomes part of a URL.
  [[ "$value" =~ ^[A-Za-z0-9._~-]+$ ]] || fail "the secret $1 is empty or has a character that is not allowed in a URL"
  printf '%s' "$value"
}

token="$(echo 'Metadata-Flavor: Google' \
  | get http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token \
  | field access_token)" || fail "the metadata server gave no token"
[ -n "$token" ] || fail "the metadata server gave no token"
rabbitmq_password="$(secret sobel-rabbitmq-password)"
redis_password="$(secret sobel-redis-password)"

# For the settings of Docker and its helper; /root is read-only.
export HOME="$RUNTIME_DIRECTORY"
docker-credential-gcr configure-docker --registries "${IMAGE%%/*}" >/dev/null || fail "docker-credential-gcr failed"
docker pull --quiet "$IMAGE" || docker image inspect "$IMAGE" >/dev/null || fail "the image $IMAGE could not be pulled"
docker rm --force sobel-worker >/dev/null 2>&1 || true # one may remain after a power cut

export RABBITMQ_URL="amqp://$RABBITMQ_USERNAME:$rabbitmq_password@$RABBITMQ_ADDRESS:5672"
export REDIS_URL="redis://:$redis_password@$REDIS_ADDRESS:6379"
exec docker run --rm --name sobel-worker \
  --env RABBITMQ_URL --env REDIS_URL \
  --env WORKER_NAME="${HOSTNAME%%.*}" --env HOST=0.0.0.0 --env METRICS_PORT="$HEALTH_PORT" \
  --publish "$HEALTH_PORT:$HEALTH_PORT" \
  --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
  --log-opt max-size=10m --log-opt max-file=2 \
  "$IMAGE"
