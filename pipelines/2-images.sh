#!/usr/bin/env bash
# Pipeline 2: builds the two images and pushes them to the registry. A few minutes.
#
#   PROJECT=my-project-123 bash pipelines/2-images.sh              tagged with the commit
#   PROJECT=my-project-123 TAG=v1 bash pipelines/2-images.sh       tagged v1
#   PROJECT=my-project-123 bash pipelines/2-images.sh --dry-run    prints the calls
#
# Skips an image that the registry has, unless its tag ends in `-dirty`: the tag of a clone with uncommitted changes.
# Costs 0.10 USD a month for each GB kept.
set -euo pipefail
# shellcheck source=SCRIPTDIR/gcp.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcp.sh"
options "$@"
no_arguments
begin gcloud terraform docker

say "Pipeline 2: the images
  sobel-coordinator:$TAG and sobel-worker:$TAG, for linux/$ARCHITECTURE
  Costs 0.10 USD a month for each GB kept. Takes a few minutes.
"
signed_in
synthesize gke
need gke 1-gke.sh

step "Docker, allowed to push"
output registry gke registry 1-gke.sh
run gcloud auth configure-docker "${registry%%/*}" --quiet

for name in coordinator worker; do
  image="$registry/sobel-$name:$TAG"
  step "the image sobel-$name:$TAG"
  if [[ "$TAG" != *-dirty ]] && has_image "$registry" "sobel-$name"; then
    say "    exists"
    continue
  fi
  run docker build --platform="linux/$ARCHITECTURE" --file="Dockerfile.$name" --tag="$image" .
  run docker push "$image"
done
say "
Expect: gcloud artifacts docker images list $registry --include-tags shows both, with the tag $TAG

Next: bash pipelines/3-services.sh"
