use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod(metadata: &Value) -> Value {
    let mut all = json!({"name": "web-0", "namespace": "shop", "uid": "6f2c", "resourceVersion": "42"});
    all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": all, "spec": {}, "status": {"phase": "Running"}})
}

fn read(text: &str) -> Pod {
    Pod::read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn reads_who_the_pod_is_and_where_it_wants_to_go() {
    let pod = read(&pod(&json!({"annotations": {"a": "b", "atomist.com/k8vent": "{\"webhooks\":[]}"}})).to_string());
    assert_eq!((pod.id.uid(), pod.id.namespace(), pod.id.name()), ("6f2c", "shop", "web-0"));
    assert_eq!(pod.version, ResourceVersion(42));
    assert_eq!(pod.annotation.as_deref(), Some(r#"{"webhooks":[]}"#));
    assert_eq!(pod.id.api_path(), "/api/v1/namespaces/shop/pods/web-0");
}

#[test]
fn managed_fields_are_cut_out_wherever_they_stand_and_nothing_else_is_touched() {
    const ID: &str = r#""name":"n","namespace":"s","uid":"u","resourceVersion":"1""#;
    const M: &str = r#""managedFields":[{"a":"]},\" "}]"#;
    for (metadata, expected) in [
        (format!("{{{ID},{M}}}"), format!("{{{ID}}}")),
        (format!("{{{M},{ID}}}"), format!("{{{ID}}}")),
        (format!("{{ {M} , {ID} }}"), format!("{{  {ID} }}")),
        (format!("{{{ID} , \"managedFields\" : null }}"), format!("{{{ID}  }}")),
        (format!(r#"{{{ID},{M},"x":1.50,"y":1e3}}"#), format!(r#"{{{ID},"x":1.50,"y":1e3}}"#)),
        (format!(r#"{{{ID},"managedFields":[]}}"#), format!("{{{ID}}}")),
    ] {
        let rest = r#""spec":{"managedFields":["kept"],"n":1.0},"apiVersion":"v1","kind":"Pod","future":"\u00e9""#;
        let pod = read(&format!(r#"{{"metadata":{metadata},{rest}}}"#));
        assert_eq!(text(&pod.json), format!(r#"{{"metadata":{expected},{rest}}}"#));
    }
}

#[test]
fn items_of_lists_get_the_api_version_and_kind_that_they_lack() {
    const METADATA: &str = r#""metadata":{"name":"n","namespace":"s","uid":"u","resourceVersion":"1"}"#;
    for (before, after) in [
        ("", r#""apiVersion":"v1","kind":"Pod","#),
        (r#""kind":"Pod","#, r#""apiVersion":"v1","kind":"Pod","#),
        (r#""apiVersion":"v1","#, r#""kind":"Pod","apiVersion":"v1","#),
        (r#""kind":"Pod","apiVersion":"v1","#, r#""kind":"Pod","apiVersion":"v1","#),
    ] {
        assert_eq!(text(&read(&format!("{{{before}{METADATA}}}")).json), format!("{{{after}{METADATA}}}"));
    }
}

#[test]
fn a_deleted_pod_has_the_phase_deleted_and_is_otherwise_as_it_was() {
    const START: &str =
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"n","namespace":"s","uid":"u","resourceVersion":"1"}"#;
    for (before, after) in [
        (r#","status":{"phase":"Running","x":1}}"#, r#","status":{"phase":"Deleted","x":1}}"#),
        (r#","status":{"x":"phase","phase":""},"y":2}"#, r#","status":{"x":"phase","phase":"Deleted"},"y":2}"#),
        (r#","status":{}}"#, r#","status":{"phase":"Deleted"}}"#),
        (r#","status":{"x":1}}"#, r#","status":{"phase":"Deleted","x":1}}"#),
        (r#","status":null}"#, r#","status":{"phase":"Deleted"}}"#),
        (r#","status":["x"]}"#, r#","status":{"phase":"Deleted"}}"#),
        (r#","status":{"phase":null}}"#, r#","status":{"phase":"Deleted"}}"#),
    ] {
        assert_eq!(text(&read(&format!("{START}{before}")).deleted_json()), format!("{START}{after}"));
    }
    let without: Value = serde_json::from_slice(&read(&format!("{START}}}")).deleted_json()).unwrap();
    assert_eq!(without["status"], json!({"phase": "Deleted"}));
}

#[test]
fn a_pod_known_by_identity_only_keeps_its_annotation() {
    let id = PodId::new("u", "s", "n");
    let told: Value = serde_json::from_slice(&Pod::identity_json(&id, ResourceVersion(7), Some("{}"))).unwrap();
    assert_eq!(
        told,
        json!({
            "apiVersion": "v1", "kind": "Pod", "status": {"phase": "Deleted"},
            "metadata": {
                "name": "n", "namespace": "s", "uid": "u", "resourceVersion": "7",
                "annotations": {"atomist.com/k8vent": "{}"},
            },
        })
    );
}

#[test]
fn what_is_no_pod_is_refused_by_name() {
    for (json, told) in [
        (json!([]).to_string(), "not a JSON object"),
        (json!({"kind": "Pod"}).to_string(), "missing field `metadata`"),
        (pod(&json!({"uid": null})).to_string(), "not the JSON of a pod"),
        (pod(&json!({"uid": ""})).to_string(), "metadata.uid"),
        (pod(&json!({"name": "a\nb"})).to_string(), "metadata.name"),
        (pod(&json!({"namespace": "a/b"})).to_string(), "metadata.namespace"),
        (pod(&json!({"resourceVersion": "-1"})).to_string(), "metadata.resourceVersion"),
        (pod(&json!({"resourceVersion": "99999999999999999999"})).to_string(), "metadata.resourceVersion"),
        (pod(&json!({})).to_string() + "{}", "something follows"),
        (String::new(), "not a JSON object"),
        ("<html>".to_owned(), "not a JSON object"),
    ] {
        let error = Pod::read(json.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(told), "{error} for {json}");
    }
    assert!(Pod::read(b"\xff").is_err());
}

#[test]
fn a_pod_that_cannot_be_read_is_still_known_by_its_uid_where_that_can_be_read() {
    for fault in [
        json!({"name": 7}),
        json!({"name": "a/b"}),
        json!({"namespace": null}),
        json!({"resourceVersion": 42}),
        json!({"resourceVersion": "18446744073709551616"}),
        json!({"annotations": "none"}),
    ] {
        let error = Pod::read(pod(&fault).to_string().as_bytes()).unwrap_err();
        assert_eq!(error.uid.as_deref(), Some("6f2c"), "{error}");
    }
    let bad = pod(&json!({"name": 7, "future": 0})).to_string();
    let bad = bad.replace("\"future\":0", &format!("\"future\":{}0{}", "[".repeat(500), "]".repeat(500)));
    assert_eq!(Pod::read(bad.as_bytes()).unwrap_err().uid.as_deref(), Some("6f2c"));
    assert_eq!(Unreadable::too_long(7).of(&bad).uid.as_deref(), Some("6f2c"));
}

#[test]
fn what_json_allows_is_sent_as_it_is_however_strange() {
    let deep = format!("{}1{}", "[".repeat(1000), "]".repeat(1000));
    for strange in [
        deep.as_str(),
        r#""\ud800""#,
        r#"["\udc00\ud800", "\u0000"]"#,
        r#"{"twice":1,"twice":2}"#,
        "123456789012345678901234567890.00e-400",
        "-0",
    ] {
        let ids = r#""name":"n","namespace":"s","uid":"u","resourceVersion":"0","managedFields":[]"#;
        let head = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"#;
        let rest = format!(r#","labels":{strange}}},"spec":{strange},"status":{{"phase":"Running","x":{strange}}}}}"#);
        let pod = read(&format!("{head}{ids}{rest}"));
        let ids = ids.replace(r#","managedFields":[]"#, "");
        assert_eq!(text(&pod.json), format!("{head}{ids}{rest}"));
        let rest = rest.replacen("Running", "Deleted", 1);
        assert_eq!(text(&pod.deleted_json()), format!("{head}{ids}{rest}"));
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i16>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        any::<String>().prop_map(Value::from),
        Just(Value::from("managedFields")),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("[a-z\"\\\\é]{0,6}|managedFields|phase", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Against a full decode and encode, with rubbish of every kind around the fields that matter.
    #[test]
    fn cutting_bytes_is_the_same_as_changing_the_document(
        managed in any_json(), spec in any_json(), extra in any_json(), status in any_json(), pretty: bool,
    ) {
        let mut document = pod(&json!({"managedFields": managed, "labels": extra}));
        document["spec"] = spec;
        document["status"] = status;
        let text = if pretty { serde_json::to_string_pretty(&document).unwrap() } else { document.to_string() };
        let pod = read(&text);
        document["metadata"].as_object_mut().unwrap().remove("managedFields");
        prop_assert_eq!(&serde_json::from_slice::<Value>(&pod.json).unwrap(), &document);

        if !document["status"].is_object() {
            document["status"] = json!({});
        }
        document["status"]["phase"] = "Deleted".into();
        prop_assert_eq!(serde_json::from_slice::<Value>(&pod.deleted_json()).unwrap(), document);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0..400usize, byte: u8) {
        let _ = Pod::read(&bytes);
        let mut text = pod(&json!({"managedFields": [{"x": "y"}]})).to_string().into_bytes();
        let at = at % text.len();
        text[at] = byte;
        if let Ok(pod) = Pod::read(&text) {
            prop_assert!(serde_json::from_slice::<Value>(&pod.json).is_ok());
            prop_assert!(serde_json::from_slice::<Value>(&pod.deleted_json()).is_ok());
        }
        text.truncate(at);
        prop_assert!(Pod::read(&text).is_err());
    }
}
