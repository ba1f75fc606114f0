#!/usr/bin/env bash
# Pipeline 1.2 of the course, first half: the firewall rules for the worker VMs. A minute.
#
#   PROJECT=my-project-123 bash pipelines/4-firewalls.sh              makes them, or brings them up to date
#   PROJECT=my-project-123 bash pipelines/4-firewalls.sh --dry-run    prints the calls
#
# A worker VM may reach RabbitMQ, Redis and Google's own services, and nothing else; it is reached by health probes, and by
# SSH through Google's proxy. Costs nothing.
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
no_arguments
begin gcloud terraform kubectl gke-gcloud-auth-plugin

say "Pipeline 1.2: the firewall
  Six rules for the worker VMs' service account; nothing is opened to the world. Costs nothing. Takes a minute.
"
signed_in
synthesize
cluster
step "where RabbitMQ and Redis are"
address rabbitmq rabbitmq-internal
address redis redis-internal
raise firewalls -var="rabbitmq_address=$rabbitmq" -var="redis_address=$redis"
say "
Expect: gcloud compute firewall-rules list --project=$PROJECT --filter='name~^sobel-workers' shows six rules"
done_with "bash pipelines/5-workers.sh"
