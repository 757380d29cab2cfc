"""Asks what the receiver has recorded, and k8vent's pod what it serves. Runs in the receiver's pod.

    ask.py any EXPRESSION          is there such a request? shows the last one
    ask.py none EXPRESSION         is there none? shows the first one
    ask.py count EXPRESSION        how many requests are such
    ask.py ordered [across]        no older state after a newer one, nothing after the delete; from each k8vent, or
                                   across all of them
    ask.py told EXPRESSION         of the pods on stdin (lines of UID VERSION), was each told in such a request, as it
                                   is there or newer?
    ask.py deleted UID...          is a delete the last that was told of these pods? says how many it is not told of
    ask.py same                    is the pod on stdin what was told of it last?
    ask.py signed SECRET           are the requests genuine that have a signature, and is there one?
    ask.py logs SECRET...          are all lines on stdin JSON objects, and is none of the secrets among them?
    ask.py get STATUS URL          is it answered with this status? shows the body
    ask.py sums URL                do the states in the metrics at URL add up, for each endpoint?
    ask.py states NAME             the states of the pods of this name, a line each

An EXPRESSION is Python; the attributes of Told are its variables. The code is 0 for yes and 1 for no.
"""

import collections
import json
import os
import re
import sys
import urllib.error
import urllib.request


class Told:
    """One request, and what is usually asked of it."""

    def __init__(self, line):
        record = json.loads(line)
        self.number, self.time, self.path = record["number"], record["time"], record["path"].partition("?")[0]
        self.headers, self.raw, self.url = record["headers"], record["raw"], record["path"]
        self.type, self.id = self.headers["ce-type"].rpartition(".")[2], self.headers["ce-id"]
        body = json.loads(self.raw)
        self.pod, self.env = body["pod"], body["env"]
        self.sender = self.env.get("HOSTNAME")
        meta, status = self.pod["metadata"], self.pod.get("status", {})
        self.name, self.namespace, self.uid = meta["name"], meta["namespace"], meta["uid"]
        self.version, self.annotations = int(meta["resourceVersion"]), meta.get("annotations", {})
        self.phase, self.node = status.get("phase"), self.pod.get("spec", {}).get("nodeName")
        self.conditions = {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}
        container = (status.get("containerStatuses") or [{}])[0]
        self.restarts = container.get("restartCount", 0)
        ((self.state, about),) = container.get("state", {"": {}}).items()
        self.reason, self.code = about.get("reason"), about.get("exitCode")
        self.last_reason = container.get("lastState", {}).get("terminated", {}).get("reason")

    def __str__(self):
        state = f"{self.state} {self.reason or ''}".strip() or "-"
        return (
            f"{self.number:5} {self.time[11:23]} {self.path} {self.type:7} {self.namespace}/{self.name} "
            f"version {self.version} {self.phase}, {state}, restarts {self.restarts}, last {self.last_reason}, "
            f"id {self.id}, from {self.sender}"
        )


def record():
    with open(os.environ.get("RECORD", "/record/requests"), encoding="utf-8") as file:
        return [Told(line) for line in file]


def such(expression):
    code = compile(expression, "expression", "eval")
    return [told for told in record() if eval(code, dict(vars(told)))]


def ask_any(expression):
    found = such(expression)
    print(found[-1] if found else f"no request is such: {expression}")
    return bool(found)


def ask_none(expression):
    found = such(expression)
    print(found[0] if found else "")
    return not found


def ask_count(expression):
    print(len(such(expression)))
    return True


def ask_ordered(across=""):
    last, wrong = {}, 0
    for told in record():
        key = (told.uid, told.path, "" if across else told.sender)
        before = last.get(key)
        # A k8vent that has just been started may tell what the one before has told already, the delete included.
        repeated = before and before.id == told.id
        if before and not repeated and (told.version < before.version or before.type == "deleted"):
            wrong += 1
            print(f"{told}\n  came after {before}")
        last[key] = told
    print(f"{len(last)} pods, {wrong} out of order")
    return not wrong and bool(last)


def ask_told(expression):
    newest = collections.defaultdict(int)
    for told in such(expression):
        newest[told.uid] = max(newest[told.uid], told.version)
    pods = [line.split() for line in sys.stdin]
    missing = [(uid, version, newest[uid]) for uid, version in pods if newest[uid] < int(version)]
    print(f"{len(pods)} pods, {len(missing)} not told as they are: {missing[:5]}")
    return bool(pods) and not missing


def ask_deleted(*uids):
    last = {told.uid: told for told in record()}
    missing = []
    for uid in uids:
        told = last.get(uid)
        if not (told and told.type == "deleted" and told.phase == "Deleted" and told.id == f"{uid}.deleted"):
            missing.append(uid)
    print(f"{len(uids) - len(missing)} of {len(uids)} deletes were told")
    return not missing


def ask_same():
    pod = json.load(sys.stdin)
    told = [told for told in record() if told.uid == pod["metadata"]["uid"]]
    if not told:
        print("it was never told")
        return False
    differing = [key for key in pod.keys() | told[-1].pod.keys() if pod.get(key) != told[-1].pod.get(key)]
    print(f"{told[-1]}\ndiffers in {differing}")
    return not differing


def ask_signed(secret):
    # The function of the README, which the receiver's pod has beside this file.
    from is_genuine import is_genuine

    signed = [told for told in record() if "webhook-signature" in told.headers]
    wrong = [told for told in signed if not is_genuine(told.headers, told.raw.encode(), secret, tolerance=3600)]
    print(f"{len(signed)} signed, {len(wrong)} of them wrong")
    return bool(signed) and not wrong


def ask_logs(*secrets):
    lines, wrong = 0, 0
    for line in sys.stdin:
        lines += 1
        try:
            is_object = isinstance(json.loads(line), dict)
        except ValueError:
            is_object = False
        if not is_object or any(secret in line for secret in secrets):
            wrong += 1
            print(line.rstrip())
    print(f"{lines} lines, {wrong} wrong")
    return bool(lines) and not wrong


def get(url):
    # Straight to the pod, whatever proxies this one's environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def ask_get(wanted, url):
    status, text = get(url)
    print(f"{status} {text}")
    return status == int(wanted)


def ask_sums(url):
    status, text = get(url)
    offered, others = collections.Counter(), collections.Counter()
    for name, endpoint, value in re.findall(r'^k8vent_states_(\w+)\{.*?endpoint="([^"]*)".*?\} (\d+)$', text, re.M):
        (offered if name == "offered_total" else others)[endpoint] += int(value)
    print(f"{status} offered {dict(offered)}, settled, waiting and in flight {dict(others)}")
    return status == 200 and bool(offered) and offered == others


def ask_states(name):
    found = [told for told in record() if told.name == name]
    for told in found:
        print(told)
    return bool(found)


def main():
    question, *words = sys.argv[1:] or [""]
    answer = globals().get(f"ask_{question}")
    if answer is None:
        print(__doc__)
        sys.exit(2)
    sys.exit(0 if answer(*words) else 1)


main()
