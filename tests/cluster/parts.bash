# shellcheck shell=bash
# The checks. Sourced by `run`; each function part_NAME is a part that can be named there.

# What must not be told: the parts of the webhook URL that are secret, and the key of the signatures.
password=hush-password query=hush-query signing_key=whsec_aHVzaC1odXNoLWh1c2gtaHVzaC1odXNoLWh1c2gtaHVzaA==
url="http://user:$password@receiver.k8vent-test.svc/global?token=$query"
basic=$(printf %s "user:$password" | base64)
to_receiver=(-e "s#https://webhook.example.com/k8vent#'$url'#")

part_rbac() {
  check "the steps of \"With RBAC\" work, and nothing is warned of" \
    unwarned as_written "### With RBAC" 1 "${to_receiver[@]}"
  check "it becomes ready" becomes_ready
  [ "$failed" = 0 ] || give_up
  adopt
  check "the README's next steps show it" as_written "### With RBAC" 3 -e "s/rollout status/& --timeout=${LIMIT}s/"
  looks_right
  check "any other kind of pod is refused there" \
    says "violates PodSecurity" k8vent run other --image "$WORKLOAD_IMAGE" --dry-run=server
}

# Nothing else can be seen of a k8vent that does not run.
give_up() {
  k8vent get pods,events >&2 || true
  k8vent logs deployment/k8vent >&2 || true
  exit 1
}

is_installed() { [ -n "$pod" ] || part_rbac; }

# How the kubelet runs the pod, and what it serves.
looks_right() {
  check "/livez is answered with 200" probe "$pod" livez 200
  check "/readyz is answered with 200" probe "$pod" readyz 200
  check "the states of /metrics add up" soon ask sums "http://$(address "$pod"):8080/metrics"
  check "a debugging container sees its process" look
  check "it runs as 65532:65532" process "Uid 65532 65532 65532 65532" "Gid 65532 65532 65532 65532"
  check "it has no capability and cannot gain any" process "Cap(Prm|Eff|Bnd|Amb) 0+" "NoNewPrivs 1"
  check "its system calls are filtered" process "Seccomp 2"
  check "its root is read-only" process "Root read-only" "Write Read-only file system"
  check "it requests and may use what the manifests say" resources
  check "it keeps to its memory: at its peak $(process_peak) KiB of 131072" [ "$(process_peak)" -lt 131072 ]
  check "all living pods are told" soon all_told_by "$pod"
  check "ATOMIST_ENVIRONMENT is sent" ask any "env['ATOMIST_ENVIRONMENT'] == 'my-cluster' and sender == '$pod'"
  check "user and password of the URL are sent as Basic authentication" \
    ask none "sender == '$pod' and path == '/global' and headers.get('authorization') != 'Basic $basic'"
}

look() {
  k8vent debug "pod/$pod" --image "$RECEIVER_IMAGE" --target k8vent --container look --profile restricted \
    -- python3 -c "$(cat "$here/process.py")" || return 1
  soon is Completed value k8vent "pod/$pod" '{.status.ephemeralContainerStatuses[0].state.terminated.reason}' &&
    k8vent logs "$pod" --container look >"$work/process"
}

# process PATTERN...: each is a whole line of what the debugging container saw.
process() {
  local pattern
  for pattern in "$@"; do
    grep -E "^${pattern%% *} " "$work/process"
    grep -qxE "$pattern" "$work/process" || return 1
  done
  # None of the capabilities differs from the others.
  [[ $1 != Cap* ]] || not grep -E '^Cap.* .*[1-9a-f]' "$work/process"
}
process_peak() { sed -n 's/^Peak //p' "$work/process" | grep . || echo 999999999; }

resources() {
  is '{"limits":{"memory":"128Mi"},"requests":{"cpu":"10m","memory":"16Mi"}} Burstable 0' \
    value k8vent "pod/$pod" '{.spec.containers[0].resources} {.status.qosClass} {.status.containerStatuses[0].restartCount}'
}

part_life() {
  local uid name
  is_installed
  check "pods are created" workloads
  check "a pod that is created is told as added" soon ask any "name == 'steady' and type == 'added'"
  check "a pod that is scheduled" soon ask any "name == 'steady' and node and 'PodScheduled' in conditions"
  check "a pod that runs and is ready" soon ask any "name == 'steady' and phase == 'Running' and 'Ready' in conditions"
  check "it is told as kubectl shows it" soon as_shown steady
  check "a pod that has ended" soon ask any "name == 'finished' and phase == 'Succeeded' and reason == 'Completed'"
  check "a pod that is killed for its memory" soon ask any "name == 'greedy' and phase == 'Failed' and reason == 'OOMKilled'"
  check "a pod that fails" soon ask any "name == 'crashing' and state == 'terminated' and reason == 'Error' and code == 3"
  check "a pod that waits to be restarted" \
    soon ask any "name == 'crashing' and reason == 'CrashLoopBackOff' and last_reason == 'Error'"
  check "a pod that was restarted twice" soon ask any "name == 'crashing' and restarts >= 2"
  check "an annotated pod goes to the webhook that it names" \
    soon ask any "name == 'annotated' and path == '/annotated' and phase == 'Running' and 'Ready' in conditions"
  check "and nowhere else" ask none "(name == 'annotated') != (path == '/annotated')"
  check "with the environment that it names" \
    ask none "name == 'annotated' and env['ATOMIST_ENVIRONMENT'] != 'annotated'"
  check "and without what is for the global webhooks" \
    ask none "name == 'annotated' and ('authorization' in headers or any(v.startswith('K8VENT_') for v in env))"
  for name in steady annotated crashing; do
    uid=$(value k8vent-test "pod/$name" '{.metadata.uid}')
    tests delete pod "$name" >/dev/null
    check "the delete of the pod \"$name\" is the last that is told of it" soon ask deleted "$uid"
  done
  check "no pod is told in a state older than before" ask ordered across
}

workloads() {
  workload . | kubectl apply --filename - && is_crowded
}

# workload COMMENT: the manifests of workloads.yaml whose comment has this pattern, with their image.
workload() {
  sed "s#WORKLOAD_IMAGE#$WORKLOAD_IMAGE#" "$here/workloads.yaml" |
    awk -v pattern="^# .*$1" '/^---/ { on = 0 } $0 ~ pattern { on = 1; print "---" } on'
}
is_crowded() {
  workload "Five at a time" | kubectl apply --filename - >/dev/null
  tests rollout status deployment/crowd --timeout "${LIMIT}s"
}
as_shown() { tests get pod "$1" --output json | ask_of same; }

part_restart() {
  local old victims
  is_installed
  old=$pod
  check "five pods run" is_crowded
  check "the steps of \"Signatures\" work, a rollout restart among them" \
    as_written "### Signatures" 1 -e "s#whsec_\$(openssl rand -base64 32)#$signing_key#"
  victims=$(uids crowd)
  tests delete pods --selector app=crowd >/dev/null
  check "it is ready again" becomes_ready
  adopt
  check "by another pod" not [ "$pod" = "$old" ]
  check "all living pods are told, as they are" soon all_told
  check "requests are signed as the README tells" soon ask signed "$signing_key"
  # shellcheck disable=SC2086
  check "and every delete in the meantime" soon ask deleted $victims
  check "the step that names the cluster works" as_written "### With RBAC" 4
  check "it is ready again" becomes_ready
  adopt
  check "the name is sent" soon ask any "sender == '$pod' and env['ATOMIST_ENVIRONMENT'] == 'production'"
  check "all living pods are told, as they are" soon all_told
  victims=$(uids crowd)
  k8vent scale deployment/k8vent --replicas 0 >/dev/null
  check "it ends when it is scaled to none" soon has_no_pod
  tests delete pods --selector app=crowd >/dev/null
  k8vent scale deployment/k8vent --replicas 1 >/dev/null
  check "and is ready when it is scaled to one" becomes_ready
  adopt
  check "all living pods are told, as they are" soon all_told
  # shellcheck disable=SC2086
  check "and every delete while nothing ran" soon ask deleted $victims
  check "no pod is told in a state older than before" ask ordered across
}

part_drain() {
  local old log address
  is_installed
  old=$pod log=$follower
  check "five pods run" is_crowded
  check "all living pods are told, as they are" soon all_told
  # The receiver keeps the answers back: the first step is under way, the second one waits behind it.
  control hold >/dev/null
  tests annotate pods --selector app=crowd step=1 >/dev/null
  check "the receiver is slow" soon is 5 ask count "sender == '$old' and annotations.get('step') == '1'"
  tests annotate pods --selector app=crowd --overwrite step=2 >/dev/null
  check "so states wait" soon says 'k8vent_states_waiting\{[^}]*\} ([5-9]|[1-9][0-9]+)$' probe "$old" metrics 200
  address=$(address "$old")
  k8vent delete pod "$old" --wait=false >/dev/null
  check "it drains when its pod is deleted" soon logged "$old" '"message":"draining"'
  check "it is not ready then" ask get 503 "http://$address:8080/readyz"
  check "but alive" ask get 200 "http://$address:8080/livez"
  check "nothing more has arrived" is 0 ask count "sender == '$old' and annotations.get('step') == '2'"
  control release >/dev/null
  check "it ends" soon ended "$log"
  check "what waited has arrived before" is 5 ask count "sender == '$old' and annotations.get('step') == '2'"
  check "it says so" logged "$old" '"message":"drained"'
  adopt
  check "another pod takes its place" soon is_ready "$pod"
  check "all living pods are told, as they are" soon all_told

  old=$pod log=$follower
  control hold >/dev/null
  tests annotate pods --selector app=crowd --overwrite step=3 >/dev/null
  check "the receiver does not answer at all" soon is 5 ask count "sender == '$old' and annotations.get('step') == '3'"
  k8vent delete pod "$old" --wait=false >/dev/null
  check "it ends all the same, before it is killed" soon ended "$log"
  check "and says what is left" logged "$old" '"level":"ERROR","message":"not delivered before the end"'
  control release >/dev/null
  adopt
  check "its successor tells it" soon all_told
  check "no pod is told in a state older than before" ask ordered across
}

part_replicas() {
  local step leader victims
  is_installed
  check "five pods run" is_crowded
  check "the step for two replicas works" as_written "### Several replicas" 1
  check "both are ready" becomes_ready
  check "one of them holds the Lease" k8vent get pod "$(leader)"
  check "and the disruption budget lets one be evicted" is 1 value k8vent pdb/k8vent '{.status.disruptionsAllowed}'
  k8vent rollout restart deployment/k8vent >/dev/null
  for step in 11 12 13 14 15 16; do
    tests annotate pods --selector app=crowd --overwrite "step=$step" >/dev/null
  done
  victims=$(uids crowd)
  tests delete pods --selector app=crowd >/dev/null
  check "both are ready again after a rolling update" becomes_ready
  adopt
  # shellcheck disable=SC2086
  check "every delete in the meantime is told" soon ask deleted $victims
  check "all living pods are told, as they are" soon all_told
  leader=$(leader)
  k8vent delete pod "$leader" --grace-period=0 --force >/dev/null 2>&1
  victims=$(uids crowd)
  tests delete pods --selector app=crowd >/dev/null
  check "another holds the Lease when the one that sent is killed" soon has_another_leader "$leader"
  # shellcheck disable=SC2086
  check "every delete in the meantime is told" soon ask deleted $victims
  check "all living pods are told, as they are" soon all_told
  check "no pod is told in a state older than before" ask ordered across
  k8vent scale deployment/k8vent --replicas 1 >/dev/null
  check "one is left when it is scaled back" soon is 1 value k8vent deployment/k8vent '{.status.replicas}'
  adopt
}

leader() { value k8vent lease/k8vent '{.spec.holderIdentity}'; }
has_another_leader() { [ -n "$(leader)" ] && [ "$(leader)" != "$1" ]; }

part_state() {
  local log steady victims
  is_installed
  check "five pods run" is_crowded
  check "a pod that nothing happens to" steady
  check "all living pods are told, as they are" soon all_told
  steady=$(ask count "name == 'steady'")
  control hold >/dev/null
  tests annotate pods --selector app=crowd step=21 >/dev/null
  check "states wait, and are on the disk" soon says 'k8vent_kept_states_waiting ([5-9]|[1-9][0-9]+)$' probe "$pod" metrics 200
  check "its process is ended, with states that wait" end_process
  check "its container is started again" \
    soon is 1 value k8vent "pod/$pod" '{.status.containerStatuses[0].restartCount}'
  check "and goes on from its state directory" soon says '"message":"going on from the state directory"' k8vent logs "$pod"
  victims=$(uids crowd)
  tests delete pods --selector app=crowd --wait=false >/dev/null
  control release >/dev/null
  # shellcheck disable=SC2086
  check "every delete in the meantime is told" soon ask deleted $victims
  check "all living pods are told, as they are" soon all_told
  check "of what nothing happened to, nothing is told again" is "$steady" ask count "name == 'steady'"

  volume
  check "the steps for the StatefulSet work" as_written "### The state directory" 1 \
    -e "s/rollout status/& --timeout=${LIMIT}s/"
  adopt
  check "it is the StatefulSet's pod" is k8vent-0 echo "$pod"
  check "five pods run" is_crowded
  check "all living pods are told, as they are" soon all_told
  steady=$(ask count "name == 'steady'")
  log=$follower
  k8vent delete pod k8vent-0 >/dev/null
  check "its pod ends" soon ended "$log"
  victims=$(uids crowd)
  tests delete pods --selector app=crowd --wait=false >/dev/null
  check "another takes its place" k8vent rollout status statefulset/k8vent --timeout "${LIMIT}s"
  check "and goes on from its volume" soon says '"message":"going on from the state directory"' k8vent logs k8vent-0
  # shellcheck disable=SC2086
  check "every delete in the meantime is told" soon ask deleted $victims
  check "all living pods are told, as they are" soon all_told
  check "of what nothing happened to, nothing is told again" is "$steady" ask count "name == 'steady'"
  check "no pod is told in a state older than before" ask ordered across
  k8vent delete statefulset/k8vent >/dev/null
  kubectl apply --filename kube/deployment-rbac.yaml >/dev/null
  check "the Deployment becomes ready again" becomes_ready
  adopt
}

steady() {
  workload "Runs until" | kubectl apply --filename - &&
    soon ask any "name == 'steady' and phase == 'Running' and 'Ready' in conditions"
}

end_process() {
  k8vent debug "pod/$pod" --image "$RECEIVER_IMAGE" --target k8vent --container end --profile restricted \
    -- python3 -c 'import os; os.kill(1, 15)'
}

# What the claim of the StatefulSet is bound to, where the cluster has no volumes of its own.
volume() {
  [ -n "$VOLUME_DIR" ] || return 0
  kubectl create --filename - >/dev/null <<EOF
apiVersion: v1
kind: PersistentVolume
metadata: {name: k8vent-test}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  claimRef: {namespace: k8vent, name: state-k8vent-0}
  local: {path: $VOLUME_DIR}
  nodeAffinity:
    required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [linux]}]}]}
EOF
}

part_update() {
  local version old
  is_installed
  old=$pod
  version=$(image_version)
  readme "### Updating" console 1 >"$work/updating"
  check "\"Updating\" has two ways" is 2 grep -c '^kubectl' "$work/updating"
  check "kubectl patch runs another version" as_written "### Updating" 1 -e 's/M\.N\.P/0.0.0/' -e '/set image/d'
  check "the image is the one that was asked for" is 0.0.0 deployed_version
  check "a version that does not exist is told by the pod" soon waits 'ErrImage.*|ImagePullBackOff|ImageInspectError'
  check "and the old pod goes on" is_ready "$old"
  check "kubectl set image runs another version" as_written "### Updating" 1 -e "s/M\.N\.P/$version/" -e '1,/^ /d'
  check "it is ready" becomes_ready
  adopt
  check "all living pods are told, as they are" soon all_told
  check "kubectl patch to the running version changes nothing" \
    says "no change" as_written "### Updating" 1 -e "s/M\.N\.P/$version/" -e '/set image/d'
}

deployed_version() { value k8vent deployment/k8vent '{.spec.template.spec.containers[0].image}' | sed 's/.*://'; }
waits() { says "^($1)\$" value k8vent "pod/$(current_pod)" '{.status.containerStatuses[0].state.waiting.reason}'; }

part_no_rbac() {
  local uid may
  kubectl delete --ignore-not-found --kustomize kube >/dev/null
  check "the steps of \"Without RBAC\" work, and nothing is warned of" without_secret
  check "without the Secret its pod waits" soon has_pod
  check "and says so" soon waits CreateContainerConfigError
  as_written "### Without RBAC" 1 "${to_receiver[@]}" -e '/^kubectl apply/d' >/dev/null
  may=$(kubectl auth can-i list pods --all-namespaces --as system:serviceaccount:k8vent:default 2>/dev/null) || true
  adopt
  if [ "$may" = no ]; then
    # The cluster has RBAC: the README tells how it shows.
    check "the log says that it may not read pods, and what grants it" \
      soon logged "$pod" '"level":"WARN".*"cannot read pods".*403.*system:serviceaccount:k8vent:default.*kube/rbac.yaml'
    check "it is not ready" probe "$pod" readyz 503
    check "but alive" probe "$pod" livez 200
    check "its pod is not ready" not is_ready "$pod"
    kubectl create clusterrole k8vent-test --verb get,list,watch --resource pods >/dev/null
    kubectl create clusterrolebinding k8vent-test --clusterrole k8vent-test --serviceaccount k8vent:default >/dev/null
  fi
  check "it becomes ready" becomes_ready
  check "without a restart" is 0 value k8vent "pod/$pod" '{.status.containerStatuses[0].restartCount}'
  looks_right
  workload "Runs until" | kubectl apply --filename - >/dev/null
  check "a pod that runs is told" \
    soon ask any "name == 'steady' and sender == '$pod' and phase == 'Running' and 'Ready' in conditions"
  uid=$(value k8vent-test pod/steady '{.metadata.uid}')
  tests delete pod steady >/dev/null
  check "and its delete" soon ask deleted "$uid"
}

# The Secret comes last, as by somebody who has forgotten it.
without_secret() { unwarned as_written "### Without RBAC" 1 -e '/create secret/d' -e '/--from-literal/d'; }

# What holds for every part.
part_in_all() {
  local log
  for log in "$work"/logs/*; do
    check "the log of ${log##*/} is JSON and has no secret" \
      ask_of logs "$password" "$query" "${signing_key#whsec_}" "$basic" <"$log"
  done
  check "no request tells a secret" \
    ask none "any(s in raw for s in ['$password', '$query', '${signing_key#whsec_}', '$basic'])"
  check "no variable is sent that k8vent withholds" ask none "{'K8VENT_WEBHOOKS', 'K8VENT_WEBHOOK_SECRET'} & set(env)"
  check "each k8vent tells no pod in a state older than before" ask ordered
  check "its last pod was not restarted" is 0 value k8vent "pod/$pod" '{.status.containerStatuses[0].restartCount}'
}
