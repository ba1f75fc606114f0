#!/usr/bin/env bash
# Pipeline 1.2 of the course, second half: the worker VMs, outside the cluster, on the same queue. About four minutes.
#
#   PROJECT=my-project-123 bash pipelines/5-workers.sh                       three VMs
#   PROJECT=my-project-123 WORKERS=5 WORKER_SPOT=true bash pipelines/5-workers.sh    five cheap ones
#   PROJECT=my-project-123 bash pipelines/5-workers.sh --dry-run             prints the calls
#
# Waits until all have joined the fleet (GET /workers). Run again with another TAG it replaces them one by one; a band that
# was in the hands of one is done by another.
# Costs about 0.07 USD an hour for each e2-standard-2 (a third of that with WORKER_SPOT=true).
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
no_arguments
begin gcloud terraform kubectl gke-gcloud-auth-plugin curl

say "Pipeline 1.2: the worker VMs
  $WORKERS of type $WORKER_MACHINE in $ZONE, sobel-worker:$TAG, spot: $WORKER_SPOT
  Costs about 0.07 USD an hour for each e2-standard-2, a third of that as spot. Takes about four minutes.
"
signed_in
synthesize
cluster

step "the image"
registry=""
output registry gke registry
image_is_there "$registry" sobel-worker
worker_group "$WORKERS"
say "
Expect: $WORKERS VMs named sobel-worker-… in GET /workers and on the page"
done_with "bash pipelines/6-smoke.sh URL     (the page's address, as 3-services.sh printed it)"
