#!/usr/bin/env bash
# Pipeline 1.2 of the course, first half: the firewall rules for the worker VMs. One minute.
#
#   PROJECT=my-project-123 bash pipelines/4-firewalls.sh              creates or updates them
#   PROJECT=my-project-123 bash pipelines/4-firewalls.sh --dry-run    prints the calls
#
# A worker VM may reach RabbitMQ, Redis and Google's own services, nothing else. Only health probes and SSH through Google's
# proxy may reach it. Costs nothing.
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
no_arguments
begin gcloud terraform kubectl gke-gcloud-auth-plugin

say "Pipeline 1.2: the firewall
  Six rules for the worker VMs' service account; none opens a port to the internet. Costs nothing. Takes a minute.
"
signed_in
synthesize gke firewalls
need gke 1-gke.sh
cluster
step "the addresses of RabbitMQ and Redis"
address rabbitmq rabbitmq-internal
address redis redis-internal
raise firewalls -var="rabbitmq_address=$rabbitmq" -var="redis_address=$redis"
say "
Expect: gcloud compute firewall-rules list --project=$PROJECT --filter='name~^sobel-workers' shows six rules

Next: bash pipelines/5-workers.sh"
