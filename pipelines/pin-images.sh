#!/usr/bin/env bash
# Pins third-party images by digest: `redis:7.2.11-bookworm` becomes `redis:7.2.11-bookworm@sha256:…`. A tag can be moved to
# another image, a digest cannot. The digest is that of the index, so it holds for every architecture.
#
#   bash pipelines/pin-images.sh                      in Dockerfile.*, compose.yaml, k8s/ and k8s-ha/
#   bash pipelines/pin-images.sh Dockerfile.worker    in this file
#
# Needs Docker with buildx, and access to the registries. Images that are already pinned stay as they are. For newer ones
# discard the changes (`git checkout`), change the tags, and run it again.
set -euo pipefail
# shellcheck source=SCRIPTDIR/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in -h | --help) usage && exit ;; esac
if [ $# -eq 0 ]; then
  cd "$(dirname "$script_path")/.."
  set -- Dockerfile.* compose.yaml k8s/*.yaml k8s-ha/*.yaml
fi
have docker || die "docker is missing; install it: https://docs.docker.com/engine/install/"

for file in "$@"; do
  [ -f "$file" ] || die "there is no file $file"
  version="$(sed -n 's/^ARG BUN_VERSION=//p' "$file")"
  # The project's own images have no digest before they are pushed.
  images="$(sed -nE '/sobel-/d; s/^(FROM| *image:) ([^ @]+)( AS .*)?$/\2/p' "$file" | sort -u)"
  for image in $images; do
    # shellcheck disable=SC2016 # the text of the file, not expanded
    name="${image/'${BUN_VERSION}'/$version}"
    digest="$(docker buildx imagetools inspect "$name" --format '{{.Manifest.Digest}}')" \
      || die "docker cannot read the digest of $name; see the error above"
    [[ "$digest" =~ ^sha256:[0-9a-f]{64}$ ]] || die "$name: expected a digest sha256:…, got ${digest:-nothing}"
    sed -i.unpinned -e "s|^FROM $image\$|&@$digest|; s|^\(FROM $image\)\( AS .*\)\$|\1@$digest\2|; s|^ *image: $image\$|&@$digest|" "$file"
    rm "$file.unpinned"
    echo "    $file: $name@$digest"
  done
done
