//! The requests that are made to the API server, and what of their answers is the same for all.

use std::time::Duration;

use form_urlencoded::Serializer;
use http::{Request, Response, StatusCode, header::ACCEPT, header::RETRY_AFTER};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::{Client, client::Body};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{
    error::{ReadError, Status, one_line},
    lines::{LONGEST, Lines},
};
use crate::pod::{Pod, PodId, ResourceVersion, Unreadable};

/// How many pods a page holds: at 10 kB each that is a few megabytes at a time.
const PAGE: usize = 250;

/// The most bytes of a page.
const LONGEST_PAGE: usize = 64 << 20;

/// The most that is read of an error's text.
const LONGEST_STATUS: usize = 64 << 10;

/// How long an answer may take to begin, and a page or a pod to arrive.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// The pods of one scope.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    path: String,
    selectors: Vec<(&'static str, String)>,
}

/// A part of a list.
pub(super) struct Page {
    pub(super) pods: Vec<Result<Pod, Unreadable>>,
    /// Names the next page; `None` after the last.
    pub(super) next: Option<String>,
    /// The version of the list as a whole.
    pub(super) version: ResourceVersion,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// With the list of all pods, and a bookmark after it.
    List,
    /// After this version.
    Version(ResourceVersion),
}

impl Api {
    pub(super) fn new(client: Client, namespace: Option<&str>, labels: Option<&str>, fields: Option<&str>) -> Self {
        let path = namespace
            .map_or_else(|| "/api/v1/pods".to_owned(), |namespace| format!("/api/v1/namespaces/{namespace}/pods"));
        let selectors = [("labelSelector", labels), ("fieldSelector", fields)];
        let selectors = selectors.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned()))).collect();
        Self { client, path, selectors }
    }

    /// Opens a watch that the API server ends by itself after `limit`.
    pub(super) async fn watch(&self, from: From, limit: Duration) -> Result<Lines, ReadError> {
        let limit = limit.as_secs().to_string();
        let mut query = vec![("watch", "1"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", &limit)];
        let version;
        match from {
            From::List => query.extend([("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]),
            From::Version(at) => {
                version = at.to_string();
                query.push(("resourceVersion", &version));
            }
        }
        let answer = self.request(&self.path, &query).await?;
        Ok(Lines::new(answer.into_body().into_data_stream()))
    }

    /// Reads a page of the list: the first one, or the one that the page before names.
    pub(super) async fn page(&self, next: Option<&str>) -> Result<Page, ReadError> {
        let limit = PAGE.to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(next.map(|next| ("continue", next)));
        let answer = self.request(&self.path, &query).await?;
        let bytes = body(answer, LONGEST_PAGE).await?;
        let list: List<'_> = serde_json::from_slice(&bytes).map_err(ReadError::NotAList)?;
        let read = |item: &&RawValue| match item.get().len() {
            0..=LONGEST => Pod::read(item.get().as_bytes()),
            _ => Err(Unreadable::too_long(LONGEST).of(item.get())),
        };
        Ok(Page {
            pods: list.items.unwrap_or_default().iter().map(read).collect(),
            next: list.metadata.next.filter(|next| !next.is_empty()),
            version: ResourceVersion(list.metadata.resource_version),
        })
    }

    /// Reads the pod of this name, which may be another one by its uid.
    pub(super) async fn get(&self, pod: &PodId) -> Result<Pod, ReadError> {
        let answer = self.request(&pod.api_path(), &[]).await?;
        Ok(Pod::read(&body(answer, LONGEST).await?)?)
    }

    async fn request(&self, path: &str, query: &[(&str, &str)]) -> Result<Response<Body>, ReadError> {
        let request = Request::get(uri(path, &self.selectors, query)).header(ACCEPT, "application/json");
        let request = request.body(Body::empty());
        let request = request.map_err(|error| ReadError::Transport(error.into()))?;
        let answer = timeout(ANSWER_LIMIT, self.client.send(request)).await;
        let answer = answer.map_err(|_| ReadError::Silent(ANSWER_LIMIT))?;
        let answer = answer.map_err(|error| ReadError::Transport(error.into()))?;
        if answer.status() == StatusCode::OK { Ok(answer) } else { Err(refused(answer).await) }
    }
}

/// A path with a query; the selectors are for lists and watches, which have one.
fn uri(path: &str, selectors: &[(&str, String)], query: &[(&str, &str)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    Serializer::new(format!("{path}?")).extend_pairs(selectors).extend_pairs(query).finish()
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMetadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(deserialize_with = "decimal")]
    resource_version: u64,
    #[serde(rename = "continue")]
    next: Option<String>,
}

fn decimal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

async fn body(answer: Response<Body>, limit: usize) -> Result<bytes::Bytes, ReadError> {
    let collected = timeout(ANSWER_LIMIT, Limited::new(answer.into_body(), limit).collect()).await;
    let collected = collected.map_err(|_| ReadError::Silent(ANSWER_LIMIT))?;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<LengthLimitError>() { ReadError::TooLong(limit) } else { ReadError::Transport(error) }
    })
}

/// The error that an answer tells, as a Status or as any text.
async fn refused(answer: Response<Body>) -> ReadError {
    let code = answer.status().as_u16();
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = retry_after.map(Duration::from_secs);
    let bytes = body(answer, LONGEST_STATUS).await.unwrap_or_default();
    match serde_json::from_slice::<Status>(&bytes) {
        Ok(status) => status.into_error(Some(code), retry_after),
        Err(_) => ReadError::Refused { code, message: one_line(&String::from_utf8_lossy(&bytes)), retry_after },
    }
}
