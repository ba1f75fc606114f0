#!/usr/bin/env bash
# Pipeline 9: takes everything down, and makes sure that nothing is left that costs money. Ten to fifteen minutes.
#
#   PROJECT=my-project-123 bash pipelines/9-destroy.sh              asks first
#   PROJECT=my-project-123 bash pipelines/9-destroy.sh --yes        does not
#   PROJECT=my-project-123 bash pipelines/9-destroy.sh --dry-run    prints the calls
#
# The VMs go first, then what Kubernetes has made outside the cluster (load balancers, disks), which would outlive it, then
# the rest. Jobs, results, images and passwords are lost. What is kept is said at the end.
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
yes=false
for argument in ${arguments[@]+"${arguments[@]}"}; do
  [ "$argument" = --yes ] || die "unknown argument $argument; expected nothing, --yes, --dry-run or --help"
  yes=true
done
begin gcloud terraform kubectl gke-gcloud-auth-plugin

say "Pipeline 9: the end
  Destroys the worker VMs, the cluster with all jobs and results, the images, the passwords and the network
  of project $PROJECT. Takes ten to fifteen minutes.
"
if ! $yes && ! $DRY_RUN; then
  read -r -p "Type the project's id to go on: " typed || typed=""
  [ "$typed" = "$PROJECT" ] || die "got ${typed:-nothing}, not $PROJECT: nothing was destroyed"
fi
signed_in
synthesize

step "the cluster is not protected"
state known gke
[[ "$known" != *'"deletion_protection":true'* ]] || die "it was made with DELETION_PROTECTION=true. To lift that:
  DELETION_PROTECTION=false bash pipelines/1-gke.sh"

# What is destroyed needs no addresses, but Terraform asks for them all the same.
none=(-var=rabbitmq_address=10.10.0.0 -var=redis_address=10.10.0.0)
fell workers "${none[@]}" -var=rabbitmq_username=none

step "what Kubernetes has made outside the cluster"
location=""
ask location "<location>" gcloud container clusters list --filter=name=sobel --format='value(location)' --project="$PROJECT"
if [ -z "$location" ]; then
  say "    there is no cluster any more"
else
  run gcloud container clusters get-credentials sobel --location="$location" --project="$PROJECT" --dns-endpoint
  # Its load balancers and disks go with the namespace, and only then is it gone.
  run kubectl delete namespace sobel --ignore-not-found --timeout=10m
  say "    until its disks are gone too:"
  for ((tries = 0; ; tries++)); do
    ask volumes "" kubectl get persistentvolumes \
      --output=jsonpath='{range .items[?(@.spec.claimRef.namespace=="sobel")]}{.metadata.name} {end}'
    [ -n "$volumes" ] || break
    [ "$tries" -lt 60 ] || die "after 5 minutes these volumes are still there: $volumes"
    sleep "${POLL_SECONDS:-5}"
  done
fi

fell firewalls "${none[@]}"
fell gke
fell network

# left WHAT COMMAND...: counts what is there still.
remains=0
left() {
  local what="$1"
  shift
  ask found "" "$@" --project="$PROJECT" || die "could not be looked up: $what"
  [ -n "$found" ] || return 0
  remains=$((remains + 1))
  say "    LEFT: $what: $(tr '\n' ' ' <<<"$found")"
}
step "nothing is left that costs money"
named="name~^(gke-)?sobel"
left "instances" gcloud compute instances list --filter="$named" --format='value(name,zone)'
left "groups of instances" gcloud compute instance-groups list --filter="$named" --format='value(name)'
left "disks" gcloud compute disks list --format='value(name,zone)' \
  --filter="$named OR labels.goog-k8s-cluster-name=sobel OR description~namespace.*sobel"
left "load balancers" gcloud compute forwarding-rules list --format='value(name)' \
  --filter="network~/sobel$ OR description~sobel/"
left "addresses" gcloud compute addresses list --filter="name~sobel OR network~/sobel$" --format='value(name)'
left "clusters" gcloud container clusters list --filter="name=sobel" --format='value(name,location)'
left "routers with NAT" gcloud compute routers list --filter="name=sobel" --format='value(name)'
left "name zones" gcloud dns managed-zones list --filter="name~^sobel" --format='value(name)'
left "registries" gcloud artifacts repositories list --location=all --filter="name~/sobel$" --format='value(name)'
left "secrets" gcloud secrets list --filter="name~/sobel-" --format='value(name)'
[ "$remains" -eq 0 ] || die "the things above go on costing money. Run this again; what then remains belongs to no stack
any more (a state that was lost, another REGION or ZONE): delete it in the console, or with gcloud"

rm -f "$KUBECONFIG"
say "
Expect: nothing more on the bill from now on. Kept, as they cost nothing or are yours:
  the project and its enabled services; terraform/state and terraform/cdktf.out on this machine"
[ -z "$STATE_BUCKET" ] || say "  the bucket $STATE_BUCKET, a few kB; without it: gcloud storage rm --recursive gs://$STATE_BUCKET"
done_with "nothing. To begin again: bash pipelines/1-gke.sh"
