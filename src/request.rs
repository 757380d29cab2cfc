//! The request that carries a delivery: body, `CloudEvents` attributes, signature.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request,
    header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};
use jiff::Timestamp;

use crate::{
    delivery::Delivery,
    endpoint::Endpoint,
    registry::Kind,
    route::Origin,
    sign::{Secret, signatures},
};

/// What every request of ours says of its sender.
pub const AGENT: HeaderValue = HeaderValue::from_static(concat!("k8vent/", env!("CARGO_PKG_VERSION")));

/// Makes requests of deliveries.
#[derive(Debug, Clone)]
pub struct RequestBuilder {
    /// `ce-source`: the cluster, as a URI reference.
    pub source: HeaderValue,
    /// Sent to global endpoints only: they may hold credentials, and whoever creates pods names the others.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// With none, requests are not signed.
    pub secrets: Vec<Secret>,
}

impl RequestBuilder {
    /// The request that delivers `body` to `endpoint`. Only the time of the attempt, `now`, and the signature over it
    /// differ between the attempts of a state.
    #[must_use]
    pub fn build(&self, endpoint: &Endpoint, delivery: &Delivery, body: Bytes, now: Timestamp) -> Request<Bytes> {
        let id = delivery.id();
        let signed = (!self.secrets.is_empty()).then(|| {
            let timestamp = now.as_second();
            (timestamp, signatures(&self.secrets, &id, timestamp, &body))
        });
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint.uri().clone();
        let headers = request.headers_mut();
        headers.reserve(16);
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = endpoint.authorization() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if delivery.origin == Origin::Global {
            for (name, value) in &self.headers {
                headers.insert(name, value.clone());
            }
        }
        self.cloud_event(headers, delivery, &id);
        if let Some((timestamp, signatures)) = signed {
            insert(headers, "webhook-id", id);
            headers.insert("webhook-timestamp", timestamp.into());
            insert(headers, "webhook-signature", signatures);
        }
        request
    }

    /// `CloudEvents` 1.0, HTTP binding in binary mode.
    fn cloud_event(&self, headers: &mut HeaderMap, delivery: &Delivery, id: &str) {
        let kind = match delivery.kind {
            Kind::Added => "com.atomist.k8vent.pod.added",
            Kind::Updated => "com.atomist.k8vent.pod.updated",
            Kind::Deleted => "com.atomist.k8vent.pod.deleted",
        };
        headers.insert("ce-specversion", HeaderValue::from_static("1.0"));
        headers.insert("ce-type", HeaderValue::from_static(kind));
        headers.insert("ce-source", self.source.clone());
        insert(headers, "ce-id", id.to_owned());
        insert(headers, "ce-subject", delivery.pod.api_path());
        insert(headers, "ce-time", delivery.read_at.to_string());
    }
}

/// The values are of names, numbers and base64, all of which headers can hold: see [`crate::pod`].
fn insert(headers: &mut HeaderMap, name: &'static str, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{PodId, ResourceVersion};

    fn delivery(kind: Kind, origin: Origin) -> Delivery {
        Delivery {
            pod: PodId::new("6f2c", "shop", "web-0"),
            version: ResourceVersion(42),
            since: ResourceVersion(0),
            kind,
            read_at: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            origin,
            annotation: None,
            env: "{}".into(),
            body: None,
        }
    }

    fn headers(url: &str, delivery: &Delivery, secrets: Vec<Secret>) -> HeaderMap {
        let custom = (HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer x"));
        let builder = RequestBuilder { source: HeaderValue::from_static("prod"), headers: vec![custom], secrets };
        let request = builder.build(&url.parse().unwrap(), delivery, Bytes::new(), Timestamp::from_second(7).unwrap());
        assert_eq!((request.method(), request.uri().authority().unwrap().as_str()), (&Method::POST, "example.com"));
        request.into_parts().0.headers
    }

    #[test]
    fn every_request_says_what_it_is_about_as_a_cloud_event() {
        for (kind, id, word) in [
            (Kind::Added, "6f2c.42", "added"),
            (Kind::Updated, "6f2c.42", "updated"),
            (Kind::Deleted, "6f2c.deleted", "deleted"),
        ] {
            let headers = headers("http://example.com/hook", &delivery(kind, Origin::Global), vec![]);
            for (name, value) in [
                ("ce-specversion", "1.0"),
                ("ce-type", &format!("com.atomist.k8vent.pod.{word}")),
                ("ce-source", "prod"),
                ("ce-id", id),
                ("ce-subject", "/api/v1/namespaces/shop/pods/web-0"),
                ("ce-time", "2026-01-02T03:04:05.678Z"),
                ("content-type", "application/json"),
                ("user-agent", concat!("k8vent/", env!("CARGO_PKG_VERSION"))),
            ] {
                assert_eq!(headers[name], value, "{name}");
            }
            assert!(!headers.contains_key("webhook-signature"));
        }
    }

    #[test]
    fn headers_of_the_operator_go_to_global_webhooks_only() {
        let global = headers("http://example.com/", &delivery(Kind::Added, Origin::Global), vec![]);
        assert_eq!(global[AUTHORIZATION], "Bearer x");
        let own = headers("http://example.com/", &delivery(Kind::Added, Origin::Annotation), vec![]);
        assert!(!own.contains_key(AUTHORIZATION));
        let basic = headers("http://u:p@example.com/", &delivery(Kind::Added, Origin::Annotation), vec![]);
        assert_eq!(basic[AUTHORIZATION], "Basic dTpw");
        let both = headers("http://u:p@example.com/", &delivery(Kind::Added, Origin::Global), vec![]);
        assert_eq!(both.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Bearer x"]);
    }

    #[test]
    fn a_signature_is_of_the_id_and_the_time_of_the_attempt() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let headers = headers("http://example.com/", &delivery(Kind::Added, Origin::Global), vec![secret.clone()]);
        assert_eq!((&headers["webhook-id"], &headers["webhook-timestamp"]), (&headers["ce-id"], &HeaderValue::from(7)));
        assert_eq!(headers["webhook-signature"], signatures(&[secret], "6f2c.42", 7, b""));
    }
}
