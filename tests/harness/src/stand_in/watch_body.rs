//! The body of a watch: events as they come, faults as they are told.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::Sleep,
};

use crate::stand_in::flood::Flood;

/// What a watch is made to do next.
pub(super) enum Piece {
    /// Send bytes.
    Data(Bytes),
    /// Send changes as fast as they are taken.
    Flood(Flood),
    /// Break the connection.
    Break,
}

/// A body that sends what it is handed; it ends in order when every sender is gone, or after the watch's own limit.
pub(super) struct WatchBody {
    pieces: UnboundedReceiver<Piece>,
    flood: Option<Flood>,
    limit: Option<Pin<Box<Sleep>>>,
    breaking: bool,
}

impl WatchBody {
    pub(super) fn new(limit: Option<Sleep>) -> (UnboundedSender<Piece>, Self) {
        let (sender, pieces) = unbounded_channel();
        (sender, Self { pieces, flood: None, limit: limit.map(Box::pin), breaking: false })
    }
}

impl Body for WatchBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.breaking {
            return Poll::Ready(Some(Err(io::Error::other("told to break"))));
        }
        if let Some(bytes) = self.flood.as_mut().and_then(Flood::next) {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        self.flood = None;
        if self.limit.as_mut().is_some_and(|limit| limit.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(None);
        }
        match ready!(self.pieces.poll_recv(cx)) {
            None => Poll::Ready(None),
            Some(Piece::Data(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Piece::Break) => {
                // What has been sent before is flushed only while we wait: break the next time.
                self.breaking = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Piece::Flood(flood)) => {
                self.flood = Some(flood);
                self.poll_frame(cx)
            }
        }
    }
}

/// Any body of the stand-in.
pub(super) enum StandInBody {
    /// All at once.
    Whole(Full<Bytes>),
    /// As it comes.
    Watch(WatchBody),
}

impl Body for StandInBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Watch(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Watch(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Watch(body) => body.size_hint(),
        }
    }
}
