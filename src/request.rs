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
            headers.extend(self.headers.iter().cloned());
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
