#!/usr/bin/env bash
# Pipeline 1: the network, the cluster and the registry. Ten to fifteen minutes the first time, one minute after that.
#
#   PROJECT=my-project-123 bash pipelines/1-gke.sh              creates them
#   PROJECT=my-project-123 bash pipelines/1-gke.sh --dry-run    prints the calls
#
# Creates a network with NAT, a GKE cluster with private nodes, a registry for images, and two empty secrets.
# Costs about 0.28 USD an hour in us-central1: control plane 0.10, one e2-standard-4 node 0.13 (up to four under load), its
# disk, NAT. 9-destroy.sh ends these costs. Settings: terraform/settings.ts.
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
no_arguments
begin gcloud terraform

say "Pipeline 1: the cluster
  project $PROJECT, region $REGION, cluster in $CLUSTER_LOCATION, $NODES_MIN to $NODES_MAX nodes $NODE_MACHINE
  Terraform's state: ${STATE_BUCKET:+bucket }${STATE_BUCKET:-terraform/state on this machine}
  Creates a network with NAT, a GKE cluster with private nodes, a registry and two empty secrets.
  Costs about 0.28 USD an hour with one node in us-central1. Takes ten to fifteen minutes.
"
signed_in

step "the services of Google Cloud, enabled"
run gcloud services enable artifactregistry.googleapis.com cloudresourcemanager.googleapis.com compute.googleapis.com \
  container.googleapis.com dns.googleapis.com iam.googleapis.com iap.googleapis.com logging.googleapis.com \
  oslogin.googleapis.com secretmanager.googleapis.com --project="$PROJECT"

if [ -n "$STATE_BUCKET" ]; then
  step "the bucket for Terraform's state"
  if ! $DRY_RUN && gcloud storage buckets describe "gs://$STATE_BUCKET" --project="$PROJECT" >/dev/null 2>&1; then
    say "    exists"
  else
    run gcloud storage buckets create "gs://$STATE_BUCKET" --project="$PROJECT" --location="$REGION" \
      --uniform-bucket-level-access --public-access-prevention
  fi
  run gcloud storage buckets update "gs://$STATE_BUCKET" --project="$PROJECT" --versioning
fi

synthesize network gke
step "no network of another state"
if $DRY_RUN || ! exists network; then
  ask found "" gcloud compute networks list --filter=name=sobel --format='value(name)' --project="$PROJECT"
  [ -z "$found" ] || die "$PROJECT has a network $found, but it is not in Terraform's state in $(in_place).
Set STATE_BUCKET as in its first run, or use the clone of that run; if its state is lost, delete it in the console"
fi
raise network
raise gke
say "
Expect: gcloud container clusters list --project=$PROJECT shows sobel, RUNNING

Next: bash pipelines/2-images.sh"
