//! Making an attempt: the body, the request, the answer.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use crate::{
    delivery::{Delivery, body},
    dispatch::Attempt,
    fence::Fence,
    pod::Pod,
    registry::Kind,
    request::RequestBuilder,
    sink::{Outcome, WebhookSink},
    source::{GetError, PodSource},
    store::Store,
    verdict::End,
};

/// How long a body may take to come from the disk, before it is read from the API server or done without.
const DISK_LIMIT: Duration = Duration::from_secs(5);

/// All that attempts are made with.
pub(super) struct Maker<'a, Source, Sink> {
    pub(super) source: &'a Source,
    pub(super) sink: &'a Sink,
    pub(super) requests: RequestBuilder,
    /// The limit over one attempt.
    pub(super) limit: Duration,
    pub(super) fence: Fence,
    pub(super) store: Option<Store>,
}

impl<Source: PodSource, Sink: WebhookSink> Maker<'_, Source, Sink> {
    /// Makes an attempt, and gives it back with how it ended and how long it took.
    pub(super) async fn make(&self, attempt: Attempt) -> (Attempt, End, Duration) {
        let start = Instant::now();
        let post = async {
            match self.body(attempt.delivery()).await {
                Ok(body) => {
                    let request = self.requests.build(&attempt.endpoint, attempt.delivery(), body, Timestamp::now());
                    End::Posted(timeout(self.limit, self.sink.post(request)).await.unwrap_or(Outcome::TimedOut))
                }
                Err(end) => end,
            }
        };
        let end = tokio::select! {
            biased;
            () = self.fence.until_closed() => End::Cancelled,
            end = post => end,
        };
        (attempt, end, start.elapsed())
    }

    /// The body of a delivery, read again where it is not at hand.
    async fn body(&self, delivery: &Delivery) -> Result<Bytes, End> {
        if let Some(body) = &delivery.body {
            return Ok(body.clone());
        }
        if delivery.kind == Kind::Deleted {
            let last = self.kept(delivery).await.and_then(|json| Pod::read(&json).ok());
            let json = last.map_or_else(
                || Pod::identity_json(&delivery.pod, delivery.version, delivery.annotation.as_deref()),
                |pod| pod.deleted_json(),
            );
            return Ok(body(&json, &delivery.env));
        }
        if let Some(json) = self.kept(delivery).await {
            return Ok(body(&json, &delivery.env));
        }
        match timeout(self.limit, self.source.get(&delivery.pod)).await {
            Ok(Ok(Some(pod))) if pod.version == delivery.version => Ok(body(&pod.json, &delivery.env)),
            Ok(Ok(_)) => Err(End::Superseded),
            Ok(Err(error)) => Err(End::Unread(error)),
            Err(elapsed) => Err(End::Unread(GetError(elapsed.into()))),
        }
    }

    /// The JSON that is on disk: of the state itself, and of a delete that was missed the last one that was seen.
    async fn kept(&self, delivery: &Delivery) -> Option<Bytes> {
        let version = (delivery.kind != Kind::Deleted).then_some(delivery.version);
        timeout(DISK_LIMIT, self.store.as_ref()?.body(&delivery.pod, version)).await.ok()?
    }
}
