//! `k8vent link-image`: tells a webhook which commit an image was built from.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request,
    header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};
use tokio::time::timeout;

use crate::{
    chain::Chain,
    cli::LinkImage,
    endpoint::{Endpoint, EndpointError},
    request::AGENT,
    settings::{Name, SettingsError, positive},
    sink::{Outcome, WebhookSink},
};

/// A link that is to be told.
#[derive(Debug)]
pub struct Link {
    urls: Vec<Endpoint>,
    body: Bytes,
    timeout: Duration,
}

/// A webhook was not told.
#[derive(Debug, thiserror::Error)]
#[error("link-image: {endpoint} did not accept the link: {why}")]
pub struct NotLinked {
    endpoint: Endpoint,
    why: String,
}

impl Link {
    /// Checks what was given.
    pub fn new(options: LinkImage) -> Result<Self, SettingsError> {
        let LinkImage { url, owner, repo, sha, image, timeout } = options;
        let urls: Vec<Endpoint> = url.iter().zip(1..).map(|(url, n)| endpoint(url, n)).collect::<Result<_, _>>()?;
        if urls.is_empty() {
            return Err(SettingsError::NoLinkUrl);
        }
        let is_sha = |sha: &str| matches!(sha.len(), 40 | 64) && sha.bytes().all(|b| b.is_ascii_hexdigit());
        given("owner", &owner, "the owner of the repository", |text| !text.trim().is_empty())?;
        given("repo", &repo, "the name of the repository", |text| !text.trim().is_empty())?;
        given("sha", &sha, "the full SHA of a commit, 40 or 64 hexadecimal digits", is_sha)?;
        given("image", &image, "the full tag of an image, like OWNER/IMAGE:VERSION", |text| {
            !text.is_empty() && !text.contains(char::is_whitespace)
        })?;
        let limit = timeout.as_deref().unwrap_or("30s");
        let timeout = positive(limit).ok_or_else(|| SettingsError::Value {
            option: Name::Flag("timeout"),
            value: limit.to_owned(),
            expected: "a duration like 500ms or 30s, and not 0",
        })?;
        let body = serde_json::json!({
            "git": { "owner": owner, "repo": repo, "sha": sha },
            "docker": { "image": image },
            "type": "link-image",
        });
        Ok(Self { urls, body: body.to_string().into(), timeout })
    }

    /// POSTs the link once to each webhook, and stops at the first that does not accept it.
    pub async fn post(&self, sink: &impl WebhookSink) -> Result<(), NotLinked> {
        for endpoint in &self.urls {
            let outcome = timeout(self.timeout, sink.post(self.request(endpoint))).await;
            let why = match outcome.unwrap_or(Outcome::TimedOut) {
                Outcome::Answered { status, .. } if status.is_success() => continue,
                Outcome::Answered { status, .. } => format!("it answered {status}"),
                Outcome::TimedOut => "no complete answer within --timeout".to_owned(),
                Outcome::Unreachable(fault) => Chain(&fault).to_string(),
            };
            return Err(NotLinked { endpoint: endpoint.clone(), why });
        }
        Ok(())
    }

    fn request(&self, endpoint: &Endpoint) -> Request<Bytes> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint.uri().clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = endpoint.authorization() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }
}

fn endpoint(url: &str, number: usize) -> Result<Endpoint, SettingsError> {
    url.parse().map_err(|source: EndpointError| SettingsError::Url { option: Name::Flag("url"), number, source })
}

fn given(
    flag: &'static str,
    value: &str,
    expected: &'static str,
    is_right: impl Fn(&str) -> bool,
) -> Result<(), SettingsError> {
    if is_right(value) {
        return Ok(());
    }
    Err(SettingsError::Value { option: Name::Flag(flag), value: value.to_owned(), expected })
}
