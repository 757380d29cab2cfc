//! What no real API server does on demand: a scripted one does it.

use std::time::Duration;

use k8vent_harness::{
    Process, Receiver, StandIn, manifest,
    stand_in::{Disturbance, Fault, Kind, Seen},
};
use serde_json::Value;

use crate::support::{LIMIT, all_told, listed, name, requests, start, stop};

/// A stand-in with pods of these names, and k8vent that has sent them all.
async fn begun(names: &[&str]) -> (StandIn, Receiver, Process) {
    let (server, receiver, k8vent) = begin(names, |_| {}).await;
    requests(&receiver, names.len()).await;
    listed(&k8vent).await;
    (server, receiver, k8vent)
}

/// The same before anything is sent, with faults.
async fn begin(names: &[&str], faults: impl FnOnce(&StandIn)) -> (StandIn, Receiver, Process) {
    let (server, receiver) = (StandIn::start().await.unwrap(), Receiver::http().await.unwrap());
    for name in names {
        server.create(&pod(name, "Pending"));
    }
    faults(&server);
    let url = format!("--url={}", receiver.url("/"));
    let k8vent = start(&server.kubeconfig().unwrap(), &[&url]);
    (server, receiver, k8vent)
}

fn pod(name: &str, phase: &str) -> Value {
    let mut pod = manifest::stored_pod("default", name);
    pod["status"]["phase"] = phase.into();
    pod
}

async fn logged(k8vent: &Process, part: &str) {
    let has = |log: &Value| log.to_string().contains(part);
    k8vent.wait_for_log(LIMIT, has).await.unwrap_or_else(|error| panic!("{part}: {error}"));
}

async fn watches(server: &StandIn, count: usize) -> Vec<Seen> {
    let of = |seen: &[Seen]| seen.iter().filter(|seen| seen.kind == Kind::Watch).count();
    server.wait_for(LIMIT, |seen| of(seen) >= count).await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_read_by_pages() {
    let names: Vec<String> = (0..600).map(|n| format!("pod-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (server, receiver, k8vent) = begin(&names, |server| server.streaming_lists(false)).await;
    requests(&receiver, 600).await;
    listed(&k8vent).await;
    server.update(&pod("pod-7", "Running"));
    requests(&receiver, 601).await;
    stop(k8vent).await;
    let lists = server.requests().into_iter().filter(|seen| seen.kind == Kind::List).count();
    assert_eq!(lists, 3, "pages of 250");
    assert_eq!(receiver.count(), 601);
    let body = receiver.requests()[0].json();
    assert_eq!((&body["pod"]["apiVersion"], &body["pod"]["kind"]), (&"v1".into(), &"Pod".into()));
}

#[tokio::test]
async fn an_event_that_is_cut_in_the_middle_is_lost_to_nobody() {
    let (server, receiver, k8vent) = begun(&["a", "b"]).await;
    server.disturb(&Disturbance::CutEvent);
    server.update(&pod("a", "Running"));
    server.delete("default", "b");
    requests(&receiver, 4).await;
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added a", "added b", "deleted b", "updated a"]);
}

#[tokio::test]
async fn a_watch_is_resumed_where_it_was_and_bookmarks_move_that() {
    let (server, receiver, k8vent) = begun(&["a"]).await;
    server.update(&pod("a", "Running"));
    requests(&receiver, 2).await;
    let version = server.version();
    server.disturb(&Disturbance::End);
    let resumed = watches(&server, 1).await.pop().unwrap();
    assert_eq!(resumed.query["resourceVersion"], version.to_string());
    assert_eq!(resumed.query["allowWatchBookmarks"], "true");
    assert!((300..=600).contains(&resumed.query["timeoutSeconds"].parse::<u32>().unwrap()));
    server.set_horizon(version + 10);
    server.disturb(&Disturbance::Bytes(
        format!("{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{}\",\"creationTimestamp\":null}},\"spec\":{{\"containers\":null}},\"status\":{{}}}}}}\n", version + 10).into(),
    ));
    server.disturb(&Disturbance::End);
    let resumed = watches(&server, 2).await.into_iter().filter(|seen| seen.kind == Kind::Watch).nth(1).unwrap();
    assert_eq!(resumed.query["resourceVersion"], (version + 10).to_string());
    stop(k8vent).await;
    assert_eq!(receiver.count(), 2);
}

#[tokio::test]
async fn rubbish_in_a_watch_is_counted_and_passed_over() {
    let (server, receiver, k8vent) = begun(&["a"]).await;
    server.disturb(&Disturbance::Rubbish);
    server.disturb(&Disturbance::Bytes("{\"type\":\"ADDED\",\"object\":{\"metadata\":7}}\n\n{}\n".into()));
    server.disturb(&Disturbance::Bytes("{\"type\":\"LATER\",\"object\":{}}\n".into()));
    server.update(&pod("a", "Running"));
    requests(&receiver, 2).await;
    logged(&k8vent, "a pod cannot be read and is passed over").await;
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added a", "updated a"]);
    let opened = server.requests().iter().filter(|seen| seen.kind != Kind::Other).count();
    assert_eq!(opened, 1, "the watch goes on");
}

#[tokio::test]
async fn a_pod_of_ten_megabytes_arrives_whole_and_one_that_cannot_be_is_passed_over() {
    let (server, receiver, k8vent) = begun(&["a"]).await;
    server.create(&manifest::huge_pod("huge", 10 << 20));
    let huge = requests(&receiver, 2).await.pop().unwrap();
    assert_eq!(name(&huge), "huge");
    assert_eq!(huge.json()["pod"]["metadata"]["annotations"]["k8vent.test/huge"].as_str().unwrap().len(), 10 << 20);
    server.create(&manifest::huge_pod("monster", 40 << 20));
    logged(&k8vent, "longer than 16777216 bytes").await;
    server.update(&pod("a", "Running"));
    requests(&receiver, 3).await;
    assert!(k8vent.peak_rss_kb() < 160 << 10, "{} kB", k8vent.peak_rss_kb());
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added a", "added huge", "updated a"]);
}

#[tokio::test]
async fn gone_as_an_event_or_as_a_status_means_a_new_list_and_no_repeats() {
    for fault in [Fault::ErrorEvent(410, None), Fault::Refuse(410)] {
        let (server, receiver, k8vent) = begun(&["same", "changed", "deleted"]).await;
        server.next(Kind::Watch, fault);
        server.disturb(&Disturbance::Break);
        server.update(&pod("changed", "Running"));
        server.delete("default", "deleted");
        requests(&receiver, 5).await;
        server.update(&pod("same", "Running"));
        requests(&receiver, 6).await;
        stop(k8vent).await;
        let mut expected = vec!["added changed", "added deleted", "added same"];
        expected.extend(["deleted deleted", "updated changed", "updated same"]);
        assert_eq!(all_told(&receiver.requests()), expected);
    }
}

#[tokio::test]
async fn other_errors_as_events_are_waited_out_and_the_watch_resumed() {
    for (code, again) in [(500, None), (429, Some(1)), (504, None)] {
        let (server, receiver, k8vent) = begun(&["a"]).await;
        server.disturb(&Disturbance::ErrorEvent(code, again));
        server.update(&pod("a", "Running"));
        requests(&receiver, 2).await;
        stop(k8vent).await;
        assert_eq!(all_told(&receiver.requests()), ["added a", "updated a"]);
    }
}

#[tokio::test]
async fn a_list_that_fails_is_tried_again_and_no_hot_loop() {
    for (fault, told) in [
        (Fault::Refuse(401), "the credentials are not accepted"),
        (Fault::Refuse(403), "kube/rbac.yaml"),
        (Fault::Refuse(404), "answered 404"),
        (Fault::RefuseRetryAfter(429, 1), "answered 429"),
        (Fault::Refuse(500), "answered 500"),
        (Fault::Refuse(503), "answered 503"),
        (Fault::html(), "too soon"),
        (Fault::empty(), "too soon"),
        (Fault::Close, "cannot reach the API server"),
    ] {
        let (server, receiver, k8vent) = begin(&["a"], |server| server.always(Kind::StreamingList, Some(fault))).await;
        let lists = |seen: &[Seen]| seen.iter().filter(|seen| seen.kind == Kind::StreamingList).count();
        let seen = server.wait_for(LIMIT, |seen| lists(seen) >= 3).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(seen[2].at - seen[0].at > Duration::from_millis(500), "{told}");
        logged(&k8vent, told).await;
        assert!(k8vent.logs().iter().all(|log| log["message"] != "list complete"));
        server.always(Kind::StreamingList, None);
        requests(&receiver, 1).await;
        stop(k8vent).await;
    }
}

#[tokio::test]
async fn a_list_without_end_is_given_up_and_tried_again() {
    for fresh_tokens in [false, true] {
        let (server, receiver, k8vent) = begin(&["a"], |server| {
            server.streaming_lists(false);
            server.always(Kind::List, Some(Fault::EndlessList { fresh_tokens }));
        })
        .await;
        logged(&k8vent, "does not end").await;
        server.always(Kind::List, None);
        listed(&k8vent).await;
        requests(&receiver, 1).await;
        stop(k8vent).await;
        assert_eq!(receiver.count(), 1);
    }
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_no_hot_loop() {
    let (server, _receiver, k8vent) = begun(&["a"]).await;
    server.always(Kind::Watch, Some(Fault::empty()));
    server.disturb(&Disturbance::End);
    let seen = watches(&server, 4).await;
    let watches: Vec<_> = seen.iter().filter(|seen| seen.kind == Kind::Watch).collect();
    assert!(watches[3].at - watches[0].at > Duration::from_millis(900));
    stop(k8vent).await;
}

#[tokio::test]
async fn gone_over_and_over_is_no_storm_of_lists() {
    let (server, receiver, k8vent) = begun(&["a"]).await;
    server.always(Kind::Watch, Some(Fault::ErrorEvent(410, None)));
    server.streaming_lists(false);
    server.disturb(&Disturbance::Break);
    let lists = |seen: &[Seen]| seen.iter().filter(|seen| seen.kind == Kind::List).count();
    let seen = server.wait_for(LIMIT, |seen| lists(seen) >= 4).await.unwrap_or_else(|error| panic!("{error}"));
    let lists: Vec<_> = seen.iter().filter(|seen| seen.kind == Kind::List).collect();
    assert!(lists[3].at - lists[0].at > Duration::from_millis(900));
    stop(k8vent).await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_passed_over_and_not_taken_for_deleted() {
    let (server, receiver, k8vent) = begun(&["good", "bad"]).await;
    let mut unreadable = pod("bad", "Running");
    unreadable["metadata"]["annotations"] = "none".into();
    server.disturb(&Disturbance::Break);
    server.update(&unreadable);
    server.forget_history();
    logged(&k8vent, "a pod cannot be read and is passed over").await;
    server.update(&pod("good", "Running"));
    requests(&receiver, 3).await;
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added bad", "added good", "updated good"]);
}
