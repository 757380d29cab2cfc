//! Where a pod goes: to the webhooks that its annotation names, else to the global ones. Never to both.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Deserialize;

use crate::{endpoint::Endpoint, pod::PodId};

/// The variable that an annotation's `environment` replaces for its pod.
const ENVIRONMENT: &str = "ATOMIST_ENVIRONMENT";

/// Variables of this prefix configure k8vent and are not told to webhooks that a pod names by itself.
const OWN_PREFIX: &str = "K8VENT_";

/// The endpoints of a pod, and the `env` that they get.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// Where the pod goes; each endpoint once.
    pub endpoints: Vec<Endpoint>,
    /// Who named them.
    pub origin: Origin,
    /// The `env` of the body, as JSON.
    pub env: Arc<str>,
    /// How many URLs of the annotation are none that can be posted to.
    pub refused: u64,
}

/// Who named an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Whoever runs k8vent.
    Global,
    /// The pod, by its annotation.
    Annotation,
}

/// Routes pods by their annotations.
#[derive(Debug)]
pub struct Router {
    env: BTreeMap<String, String>,
    plain: Arc<Route>,
}

impl Router {
    /// Routes pods without webhooks of their own to `global`, with `env` as the environment to send.
    #[must_use]
    pub fn new(global: Vec<Endpoint>, env: BTreeMap<String, String>) -> Self {
        let plain = Route { endpoints: global, origin: Origin::Global, env: json(&env), refused: 0 };
        Self { env, plain: Arc::new(plain) }
    }

    /// Where pods without webhooks of their own go.
    #[must_use]
    pub fn global(&self) -> &[Endpoint] {
        &self.plain.endpoints
    }

    /// Where a pod with this [annotation](crate::pod::ANNOTATION) goes. A malformed one is ignored as a whole, with a
    /// warning.
    #[must_use]
    pub fn route(&self, pod: &PodId, annotation: Option<&str>) -> Arc<Route> {
        let Some(annotation) = annotation else {
            return self.plain.clone();
        };
        match serde_json::from_str::<Annotation>(annotation) {
            Ok(annotation) => self.annotated(pod, annotation),
            Err(error) => {
                tracing::warn!(%pod, error = %Malformed(error), "annotation ignored");
                self.plain.clone()
            }
        }
    }

    fn annotated(&self, pod: &PodId, annotation: Annotation) -> Arc<Route> {
        let urls = annotation.webhooks.unwrap_or_default();
        if urls.is_empty() && annotation.environment.is_none() {
            return self.plain.clone();
        }
        let origin = if urls.is_empty() { Origin::Global } else { Origin::Annotation };
        let mut endpoints = if urls.is_empty() { self.plain.endpoints.clone() } else { Vec::new() };
        let mut refused = 0;
        for url in urls {
            match url.trim().parse::<Endpoint>() {
                Ok(endpoint) if endpoints.contains(&endpoint) => {}
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => {
                    refused += 1;
                    tracing::warn!(%pod, %error, "webhook URL in annotation refused");
                }
            }
        }
        Arc::new(Route { endpoints, origin, env: self.env(origin, annotation.environment), refused })
    }

    fn env(&self, origin: Origin, environment: Option<String>) -> Arc<str> {
        if origin == Origin::Global && environment.is_none() {
            return self.plain.env.clone();
        }
        let mut env = self.env.clone();
        if origin == Origin::Annotation {
            env.retain(|name, _| !name.starts_with(OWN_PREFIX));
        }
        env.extend(environment.map(|environment| (ENVIRONMENT.to_owned(), environment)));
        json(&env)
    }
}

fn json(env: &BTreeMap<String, String>) -> Arc<str> {
    serde_json::json!(env).to_string().into()
}

/// The value of the annotation. Unknown keys are ignored.
#[derive(Deserialize)]
struct Annotation {
    webhooks: Option<Vec<String>>,
    environment: Option<String>,
}

/// What is wrong with an annotation, without its text: that may hold URLs, and they secrets.
struct Malformed(serde_json::Error);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = format_args!("line {} column {}", self.0.line(), self.0.column()).to_string();
        match self.0.classify() {
            serde_json::error::Category::Data => {
                write!(f, r#"not of the form {{"webhooks": ["URL", …], "environment": "NAME"}}: wrong type at {place}"#)
            }
            _ => write!(f, "not JSON: error at {place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn router() -> Router {
        let env = [("ATOMIST_ENVIRONMENT", "prod"), ("K8VENT_TIMEOUT", "5s"), ("Z", "\"é\n")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Router::new(vec!["http://global/".parse().unwrap()], env)
    }

    fn routed(annotation: Option<&str>) -> (Vec<String>, Value, u64) {
        let route = router().route(&PodId::new("u", "s", "n"), annotation);
        let endpoints = route.endpoints.iter().map(ToString::to_string).collect();
        (endpoints, serde_json::from_str(&route.env).unwrap(), route.refused)
    }

    #[test]
    fn the_annotation_goes_before_the_global_webhooks_and_is_never_added_to_them() {
        for (annotation, endpoints) in [
            (r#"{"webhooks":["http://a/","https://b/"]}"#, vec!["http://a/", "https://b/"]),
            (r#"{"webhooks":["http://a/","http://a/"," http://a/ "]}"#, vec!["http://a/"]),
            (r#"{"webhooks":[]}"#, vec!["http://global/"]),
            (r#"{"webhooks":null}"#, vec!["http://global/"]),
            (r#"{"future":{"x":1}}"#, vec!["http://global/"]),
            (r"{}", vec!["http://global/"]),
        ] {
            assert_eq!(routed(Some(annotation)).0, endpoints, "{annotation}");
        }
        assert_eq!(routed(None).0, ["http://global/"]);
    }

    #[test]
    fn a_malformed_annotation_is_ignored_as_a_whole() {
        for annotation in [
            "",
            "[]",
            "null",
            "true",
            "{",
            r#"{"webhooks":"http://a/"}"#,
            r#"{"webhooks":[1]}"#,
            r#"{"webhooks":["http://a/"],"environment":7}"#,
            r#"{"webhooks":["http://a/"]} x"#,
        ] {
            assert_eq!(routed(Some(annotation)), routed(None), "{annotation}");
        }
    }

    #[test]
    fn urls_that_cannot_be_posted_to_are_refused_and_the_others_used() {
        let (endpoints, _, refused) = routed(Some(r#"{"webhooks":["ftp://a/","/b","http://c/","d"]}"#));
        assert_eq!((endpoints, refused), (vec!["http://c/".to_owned()], 3));
        let (endpoints, _, refused) = routed(Some(r#"{"webhooks":["ftp://a/"]}"#));
        assert_eq!((endpoints, refused), (vec![], 1));
    }

    #[test]
    fn env_is_sorted_and_changed_by_the_annotation_for_its_pod_only() {
        let global = json!({"ATOMIST_ENVIRONMENT": "prod", "K8VENT_TIMEOUT": "5s", "Z": "\"é\n"});
        assert_eq!(routed(None).1, global);
        assert!(router().plain.env.starts_with(r#"{"ATOMIST_ENVIRONMENT":"#));
        let test = json!({"ATOMIST_ENVIRONMENT": "test", "K8VENT_TIMEOUT": "5s", "Z": "\"é\n"});
        assert_eq!(routed(Some(r#"{"environment":"test"}"#)).1, test);
    }

    #[test]
    fn webhooks_of_annotations_never_see_variables_of_k8vent() {
        let (_, env, _) = routed(Some(r#"{"webhooks":["http://a/"],"environment":"test"}"#));
        assert_eq!(env, json!({"ATOMIST_ENVIRONMENT": "test", "Z": "\"é\n"}));
        let (_, env, _) = routed(Some(r#"{"webhooks":["http://a/"]}"#));
        assert_eq!(env, json!({"ATOMIST_ENVIRONMENT": "prod", "Z": "\"é\n"}));
    }
}
