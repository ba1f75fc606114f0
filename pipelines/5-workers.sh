#!/usr/bin/env bash
# Pipeline 1.2 of the course, second half: the worker VMs, outside the cluster, on the same queue. About four minutes.
#
#   PROJECT=my-project-123 bash pipelines/5-workers.sh                               three VMs
#   PROJECT=my-project-123 WORKERS=5 WORKER_SPOT=true bash pipelines/5-workers.sh    five spot VMs
#   PROJECT=my-project-123 bash pipelines/5-workers.sh --dry-run                     prints the calls
#
# Waits until GET /workers lists all of them. With another TAG it replaces them one by one; RabbitMQ redelivers a band that
# was in progress on one.
# Costs about 0.07 USD an hour for each e2-standard-2 (a third of that with WORKER_SPOT=true).
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
no_arguments
begin gcloud terraform kubectl gke-gcloud-auth-plugin

say "Pipeline 1.2: the worker VMs
  $WORKERS of type $WORKER_MACHINE in $ZONE, sobel-worker:$TAG, spot: $WORKER_SPOT
  Costs about 0.07 USD an hour for each e2-standard-2, a third of that as spot. Takes about four minutes.
"
signed_in
synthesize gke firewalls workers
need gke 1-gke.sh
need firewalls 4-firewalls.sh
images sobel-worker
cluster
worker_group "$WORKERS"
say "
Expect: GET /workers and the page list $WORKERS VMs named sobel-worker-…

Next: bash pipelines/6-smoke.sh URL     (the page's address, which 3-services.sh printed)"
