use std::collections::BTreeMap;

use super::*;

const SCOPE: Scope = Scope(0);

fn registry() -> Registry {
    Registry::new(Router::new(vec!["http://global/".parse().unwrap()], BTreeMap::new()))
}

fn pod(name: &str, version: u64) -> Pod {
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"s","uid":"uid-{name}","resourceVersion":"{version}"}}}}"#
    );
    Pod::read(json.as_bytes()).unwrap()
}

fn annotated(name: &str, version: u64, url: &str) -> Pod {
    let annotation = serde_json::json!({"webhooks": [url]}).to_string();
    Pod { annotation: Some(annotation.into()), ..pod(name, version) }
}

/// What the events of one scope change, as `KIND NAME VERSION`.
fn observe_in(registry: &mut Registry, scope: Scope, events: impl IntoIterator<Item = What>) -> Vec<String> {
    let mut changes = Vec::new();
    for what in events {
        let mut new = registry.observe(PodEvent { scope, what });
        new.sort_by_key(|change| change.pod.id.uid().to_owned());
        changes.extend(new.iter().map(|c| format!("{} {} {}", c.kind.as_str(), c.pod.id.name(), c.pod.version)));
    }
    changes
}

fn observe(registry: &mut Registry, events: impl IntoIterator<Item = What>) -> Vec<String> {
    observe_in(registry, SCOPE, events)
}

fn list(pods: impl IntoIterator<Item = Pod>, version: u64) -> Vec<What> {
    let pods = pods.into_iter().map(What::Listed);
    [What::ListBegan].into_iter().chain(pods).chain([What::ListEnded(ResourceVersion(version))]).collect()
}

/// A list, and a watch that begins with it.
fn read(pods: impl IntoIterator<Item = Pod>, version: u64) -> Vec<What> {
    let watch = What::Watching(ResourceVersion(version));
    list(pods, version).into_iter().chain([watch]).collect()
}

#[test]
fn a_list_adds_what_was_not_known() {
    let mut registry = registry();
    assert_eq!(observe(&mut registry, read([pod("a", 1), pod("b", 2)], 5)), ["added a 1", "added b 2"]);
    assert_eq!(registry.len(), 2);
}

#[test]
fn a_relist_tells_what_changed_and_what_vanished_and_nothing_else() {
    let mut registry = registry();
    observe(&mut registry, read([pod("same", 1), pod("changed", 2), pod("gone", 3)], 5));
    let changes = observe(&mut registry, read([pod("same", 1), pod("changed", 7), pod("new", 8)], 9));
    assert_eq!(changes, ["updated changed 7", "added new 8", "deleted gone 9"]);
    assert_eq!(observe(&mut registry, read([pod("same", 1), pod("changed", 7), pod("new", 8)], 9)), [""; 0]);
}

#[test]
fn a_list_that_broke_off_deletes_nothing() {
    let mut registry = registry();
    observe(&mut registry, read([pod("a", 1), pod("b", 2)], 5));
    assert_eq!(observe(&mut registry, [What::ListBegan, What::Listed(pod("a", 1))]), [""; 0]);
    assert_eq!(observe(&mut registry, read([pod("b", 2)], 9)), ["deleted a 9"]);
}

#[test]
fn a_pod_that_is_replaced_under_its_name_is_deleted_and_another_added() {
    let mut registry = registry();
    observe(&mut registry, read([pod("a", 1)], 5));
    let mut other = pod("a", 8);
    other.id = PodId::new("another", "s", "a");
    assert_eq!(observe(&mut registry, read([other], 9)), ["added a 8", "deleted a 9"]);
}

#[test]
fn a_watch_tells_the_same_version_once() {
    let mut registry = registry();
    let events = [
        What::Changed(pod("a", 1)),
        What::Changed(pod("a", 1)),
        What::Changed(pod("a", 2)),
        What::Deleted(pod("a", 3)),
    ];
    assert_eq!(observe(&mut registry, events), ["added a 1", "updated a 2", "deleted a 3"]);
    assert!(registry.is_empty());
}

#[test]
fn scopes_do_not_delete_each_others_pods() {
    let mut registry = registry();
    observe_in(&mut registry, Scope(0), read([pod("a", 1)], 5));
    observe_in(&mut registry, Scope(1), read([pod("b", 2)], 5));
    assert_eq!(observe_in(&mut registry, Scope(0), read([], 9)), ["deleted a 9"]);
    assert_eq!(registry.len(), 1);
}

#[test]
fn is_complete_when_each_scope_has_been_listed() {
    let mut registry = registry();
    observe_in(&mut registry, Scope(0), list([], 5));
    assert!(registry.is_complete(1));
    assert!(!registry.is_complete(2));
    observe_in(&mut registry, Scope(1), [What::ListBegan]);
    assert!(!registry.is_complete(2));
    observe_in(&mut registry, Scope(1), [What::ListEnded(ResourceVersion(5))]);
    assert!(registry.is_complete(2));
}

#[test]
fn an_unreadable_pod_in_a_relist_is_not_deleted() {
    let unreadable = || Pod::read(br#"{"metadata":{"uid":"uid-b","name":7}}"#).unwrap_err();
    let mut registry = registry();
    observe(&mut registry, read([pod("a", 1), pod("b", 2)], 5));
    let events = [
        What::ListBegan,
        What::Unreadable(unreadable()),
        What::ListEnded(ResourceVersion(9)),
        What::Watching(ResourceVersion(9)),
    ];
    assert_eq!(observe(&mut registry, events), ["deleted a 9"]);
}

#[test]
fn where_an_item_cannot_be_told_at_all_nothing_is_deleted_for_missing() {
    let mut registry = registry();
    observe(&mut registry, read([pod("a", 1)], 5));
    let rubbish = Pod::read(b"rubbish").unwrap_err();
    let events = [
        What::ListBegan,
        What::Unreadable(rubbish),
        What::ListEnded(ResourceVersion(9)),
        What::Watching(ResourceVersion(9)),
    ];
    assert_eq!(observe(&mut registry, events), [""; 0]);
    assert_eq!(observe(&mut registry, read([], 10)), ["deleted a 10"]);
}

#[test]
fn a_delete_goes_where_the_pod_asked_for_whether_it_was_seen_or_missed() {
    let mut registry = registry();
    observe(&mut registry, read([annotated("a", 1, "http://a/"), annotated("b", 1, "http://b/")], 5));
    let watched = registry.observe(PodEvent { scope: SCOPE, what: What::Deleted(annotated("a", 6, "http://a/")) });
    assert_eq!(watched[0].route.endpoints, ["http://a/".parse().unwrap()]);
    observe(&mut registry, list([], 9));
    let missed = registry.observe(PodEvent { scope: SCOPE, what: What::Watching(ResourceVersion(9)) });
    assert_eq!(missed[0].route.endpoints, ["http://b/".parse().unwrap()]);
}

#[test]
fn a_changed_annotation_changes_the_route() {
    let mut registry = registry();
    observe(&mut registry, [What::Changed(annotated("a", 1, "http://a/"))]);
    let changes = registry.observe(PodEvent { scope: SCOPE, what: What::Changed(annotated("a", 2, "http://b/")) });
    assert_eq!(changes[0].route.endpoints, ["http://b/".parse().unwrap()]);
    let changes = registry.observe(PodEvent { scope: SCOPE, what: What::Changed(pod("a", 3)) });
    assert_eq!(changes[0].route.endpoints, ["http://global/".parse().unwrap()]);
}

/// A watch that begins before the list tells again what the list has told, and also what came and went.
#[test]
fn of_the_time_before_the_list_only_deletes_are_told() {
    let mut registry = registry();
    observe(&mut registry, list([pod("kept", 7)], 9));
    let before = [
        What::Watching(ResourceVersion(3)),
        What::Changed(pod("kept", 4)),
        What::Changed(pod("gone", 5)),
        What::Deleted(pod("gone", 6)),
        What::Changed(pod("kept", 7)),
    ];
    assert_eq!(observe(&mut registry, before), ["deleted gone 6"]);
    assert_eq!(registry.seen(1), None, "the watch is behind the list");
    assert_eq!(observe(&mut registry, [What::Changed(pod("new", 10))]), ["added new 10"]);
    assert_eq!(registry.seen(1), Some(ResourceVersion(10)));
}

#[test]
fn a_pod_that_left_the_selection_and_came_back_before_the_list_is_still_there() {
    let mut registry = registry();
    observe(&mut registry, list([pod("back", 7)], 9));
    let before = [What::Watching(ResourceVersion(3)), What::Deleted(pod("back", 5)), What::Changed(pod("back", 7))];
    assert_eq!(observe(&mut registry, before), [""; 0]);
    assert_eq!(registry.len(), 1);
}

/// The API server has forgotten when: whoever has come no further than what was seen before the list needs the delete.
#[test]
fn a_delete_that_a_list_shows_may_be_as_old_as_what_was_seen_before_it() {
    let mut registry = registry();
    observe(&mut registry, list([pod("gone", 3)], 5));
    observe(&mut registry, [What::Watching(ResourceVersion(5)), What::Bookmark(ResourceVersion(8))]);
    assert_eq!(observe(&mut registry, list([], 20)), [""; 0]);
    assert_eq!(registry.seen(1), None, "until the watch goes on after the list");
    let missed = registry.observe(PodEvent { scope: SCOPE, what: What::Watching(ResourceVersion(20)) });
    assert_eq!((missed[0].since, missed[0].pod.version), (ResourceVersion(8), ResourceVersion(20)));
    assert!(missed[0].pod.json.is_empty(), "nobody knows its last state");
}

#[test]
fn what_was_seen_of_several_scopes_is_the_least_of_them() {
    let mut registry = registry();
    for (scope, version) in [(Scope(0), 9), (Scope(1), 4)] {
        assert_eq!(registry.seen(2), None);
        observe_in(&mut registry, scope, list([], version));
        observe_in(&mut registry, scope, [What::Watching(ResourceVersion(version))]);
    }
    assert_eq!(registry.seen(2), Some(ResourceVersion(4)));
    observe_in(&mut registry, Scope(1), [What::Bookmark(ResourceVersion(30))]);
    assert_eq!(registry.seen(2), Some(ResourceVersion(9)));
}

fn remembered(name: &str, version: u64) -> store::Known {
    let Pod { id, version, annotation, .. } = pod(name, version);
    store::Known { id, version, scope: SCOPE, annotation }
}

/// What was missed is told by the watch as long as the API server remembers it, with its last state.
#[test]
fn after_a_restart_the_watch_tells_of_deletes_that_the_list_shows() {
    let mut registry = registry();
    registry.remember(vec![remembered("gone", 3), remembered("kept", 4)], &[ResourceVersion(5)]);
    assert_eq!(observe(&mut registry, list([pod("kept", 4)], 9)), [""; 0]);
    let watch = [
        What::Watching(ResourceVersion(5)),
        What::Changed(pod("gone", 6)),
        What::Deleted(pod("gone", 7)),
        What::Changed(pod("brief", 8)),
        What::Deleted(pod("brief", 9)),
    ];
    assert_eq!(observe(&mut registry, watch), ["deleted gone 7", "deleted brief 9"]);
    assert_eq!(registry.told(1), Some(vec![ResourceVersion(9)]));
}

#[test]
fn after_a_restart_the_list_tells_of_deletes_that_the_watch_cannot() {
    let mut registry = registry();
    registry.remember(vec![remembered("gone", 3), remembered("changed", 4)], &[ResourceVersion(5)]);
    assert_eq!(observe(&mut registry, read([pod("changed", 8)], 9)), ["updated changed 8", "deleted gone 9"]);
}

/// The process before was ended while it read its first list.
#[test]
fn a_pod_that_was_seen_after_the_watch_begins_is_left_to_the_watch() {
    let mut registry = registry();
    registry.remember(vec![remembered("late", 6), remembered("early", 2)], &[]);
    assert_eq!(observe(&mut registry, list([], 9)), [""; 0]);
    let watch = [What::Watching(ResourceVersion(4)), What::Deleted(pod("late", 7))];
    assert_eq!(observe(&mut registry, watch), ["deleted early 9", "deleted late 7"]);
}

#[test]
fn what_was_told_before_a_restart_is_not_told_again() {
    let mut registry = registry();
    registry.remember(vec![], &[ResourceVersion(5), ResourceVersion(3)]);
    observe(&mut registry, list([], 9));
    let watch = [What::Watching(ResourceVersion(3)), What::Deleted(pod("told", 4)), What::Deleted(pod("new", 6))];
    assert_eq!(observe(&mut registry, watch), ["deleted new 6"]);
    assert_eq!(registry.told(2), Some(vec![ResourceVersion(6), ResourceVersion(3)]));
}
