# shellcheck shell=bash
# What the checks are made of. Sourced by `run`.

passed=0 failed=0
work=$(mktemp -d)
mkdir "$work/logs"
followers='' pod=''
# What is there at the end and was not at the beginning.
ours=(namespace/k8vent namespace/k8vent-test clusterrole/k8vent clusterrole/k8vent-test
  clusterrolebinding/k8vent clusterrolebinding/k8vent-test persistentvolume/k8vent-test)

usage() {
  sed -n -e 1d -e '/^set /q' -e 's/^# \{0,1\}//p' "$here/run" >&2
  exit 2
}

kubectl() { command kubectl ${context:+--context "$context"} "$@"; }
k8vent() { kubectl --namespace k8vent "$@"; }
tests() { kubectl --namespace k8vent-test "$@"; }

# check WHAT COMMAND...: says whether the command succeeds, and shows the end of its output if it does not.
check() {
  local what=$1
  shift
  if "$@" >"$work/seen" 2>&1; then
    passed=$((passed + 1))
    echo "ok      $what"
  else
    failed=$((failed + 1))
    echo "FAILED  $what"
    tail -n 8 "$work/seen" | cut -c1-1500 | sed 's/^/        /'
  fi
}

# soon COMMAND...: tries until it succeeds or LIMIT is over; shows the output of the last try.
soon() {
  local end=$((SECONDS + LIMIT))
  until "$@" >"$work/try" 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "not within $LIMIT s: $*"
      cat "$work/try"
      return 1
    fi
    sleep 0.3 # between tries
  done
  cat "$work/try"
}

not() { ! "$@"; }

# says PATTERN COMMAND...: the command's output has the pattern, whether it succeeds or not.
says() {
  local pattern=$1
  shift
  "$@" >"$work/says" 2>&1 || true
  cat "$work/says"
  grep -qE -- "$pattern" "$work/says"
}

# is TEXT COMMAND...: the command's output is this text.
is() {
  local text=$1 output
  shift
  output=$("$@" 2>&1) || true
  echo "$output, not $text"
  [ "$output" = "$text" ]
}

# ask QUESTION...: see ask.py.
ask() { tests exec --stdin receiver -- python3 /programs/ask.py "$@" </dev/null; }
ask_of() { tests exec --stdin receiver -- python3 /programs/ask.py "$@"; } # with stdin
control() { ask get 200 "http://127.0.0.1:8080/-/$1"; }

# unwarned COMMAND...: it succeeds, and its output has no warning.
unwarned() {
  "$@" >"$work/unwarned" 2>&1 || { cat "$work/unwarned" && return 1; }
  cat "$work/unwarned"
  not grep -q Warning "$work/unwarned"
}

# readme HEADING LANGUAGE NUMBER: a block of code under a heading of the README; of a console, the commands alone.
readme() {
  awk -v heading="$1" -v language="$2" -v number="$3" '
    $0 == heading { under = 1; next }
    under && !inside && /^#/ { exit }
    under && $0 == "```" language { blocks++; inside = 1; next }
    /^```/ { inside = 0 }
    under && inside && blocks == number { if (language == "console") sub(/^\$ /, ""); print }' README.md
}

# as_written HEADING NUMBER [SED...]: runs the commands of the README, changed by sed with these
# arguments.
as_written() {
  local heading=$1 number=$2 commands
  shift 2
  commands=$(readme "$heading" console "$number" | sed -e '' "$@")
  [ -n "$commands" ] || { echo "the README has no commands under $heading"; return 1; }
  { declare -p context && declare -f kubectl && echo "$commands"; } >"$work/commands"
  echo "$commands"
  bash -eu "$work/commands"
}

image_version() { sed -n 's/^ *image: .*:\([^:]*\)$/\1/p' kube/deployment-rbac.yaml; }

# current_pod: the name of the newest k8vent pod that is not about to end.
current_pod() {
  k8vent get pods --selector app.kubernetes.io/name=k8vent --sort-by .metadata.creationTimestamp --output \
    go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}' | tail -n 1
}
has_pod() { [ -n "$(current_pod)" ]; }
has_no_pod() { is "" k8vent get pods --selector app.kubernetes.io/name=k8vent --output name; }
address() { k8vent get pod "$1" --output 'jsonpath={.status.podIP}'; }
probe() { ask get "$3" "http://$(address "$1"):8080/$2"; } # POD PATH STATUS
value() { kubectl get --namespace "$1" "$2" --output "jsonpath=$3"; } # NAMESPACE WHAT PATH
is_ready() { is True value k8vent "pod/$1" '{.status.conditions[?(@.type=="Ready")].status}'; }

# adopt: waits for a k8vent pod that has begun to run, sets `pod` to its name, and follows its log until it ends, into a
# file and with the process `follower`.
adopt() {
  soon has_pod >/dev/null
  pod=$(current_pod)
  soon readable "$pod" >/dev/null
  [ ! -e "$work/logs/$pod" ] || return 0
  # exec: the process that is ended later is kubectl itself.
  exec kubectl ${context:+--context "$context"} --namespace k8vent logs --follow --container k8vent "$pod" \
    >"$work/logs/$pod" 2>"$work/follow" &
  follower=$!
  followers+=" $follower"
}
readable() { k8vent logs --container k8vent --tail 1 "$1"; }
becomes_ready() { k8vent rollout status deployment/k8vent --timeout "${LIMIT}s"; }
logged() { grep -E -- "$2" "$work/logs/$1"; } # POD PATTERN

# ended PROCESS: the follower of a log has come to its end, as the pod has then.
ended() { not kill -0 "$1"; }

# living: UID and version of all pods that are not about to be deleted.
living() {
  kubectl get pods --all-namespaces --output \
    go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.uid}} {{.metadata.resourceVersion}}{{"\n"}}{{end}}{{end}}'
}
all_told_by() { living >"$work/living" && ask_of told "sender == '$1'" <"$work/living"; }
all_told() { living >"$work/living" && ask_of told True <"$work/living"; }
uids() { tests get pods --selector "app=$1" --output 'jsonpath={.items[*].metadata.uid}'; }

# begin: the namespace k8vent-test with the receiver in it.
begin() {
  local there
  there=$(kubectl get --ignore-not-found --output name "${ours[@]}") || exit 2
  if [ -n "$there" ]; then
    printf 'tests/cluster/run: the cluster has these already, and they are not touched:\n%s\n' "$there" >&2
    exit 2
  fi
  trap finish EXIT
  trap 'exit 130' INT TERM
  readme "### Signatures" python 1 >"$work/is_genuine.py"
  {
    kubectl create namespace k8vent-test &&
      kubectl label namespace k8vent-test pod-security.kubernetes.io/enforce=restricted &&
      tests create configmap receiver --from-file "$here/receiver.py" --from-file "$here/ask.py" \
        --from-file "$work/is_genuine.py" &&
      soon tests get serviceaccount default &&
      sed "s#RECEIVER_IMAGE#$RECEIVER_IMAGE#" "$here/receiver.yaml" | kubectl create --filename - &&
      tests wait --for condition=Ready pod/receiver --timeout "${LIMIT}s"
  } >"$work/begin" 2>&1 || { cat "$work/begin" >&2 && tests get events >&2; exit 2; }
}

# finish: ends what is left of ours, here and in the cluster.
finish() {
  local follower
  for follower in $followers; do kill "$follower" 2>/dev/null || true; done
  [ -z "$record" ] || tests exec receiver -- python3 -c 'print(open("/record/requests").read(), end="")' >"$record" || true
  if [ -z "$keep" ]; then
    kubectl delete --ignore-not-found --timeout "${LIMIT}s" "${ours[@]}" >"$work/end" 2>&1 || cat "$work/end" >&2
  fi
  rm -rf "$work"
}
