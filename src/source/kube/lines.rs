//! The lines of a watch.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use http_body_util::{BodyDataStream, BodyExt};
use kube::client::Body;
use memchr::memchr;
use tokio::time::timeout;

use super::error::ReadError;

/// The longest event that is taken in. etcd holds no object over 1.5 MiB by default, and no managed fields make eight
/// times that of it; what is longer is no pod.
pub(super) const LONGEST: usize = 16 << 20;

/// Splits the body of a watch into lines.
pub(super) struct Lines {
    body: BodyDataStream<Body>,
    buffer: BytesMut,
    /// So many bytes of the buffer hold no line end.
    searched: usize,
    /// The line that goes on is too long, and passed over up to its end.
    skipping: bool,
}

/// What came next.
#[derive(Debug)]
pub(super) enum Line {
    /// A line, without its end.
    Whole(BytesMut),
    /// A line that is longer than [`LONGEST`].
    TooLong,
    /// The watch ended; what was left without a line end is no event.
    End,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), buffer: BytesMut::new(), searched: 0, skipping: false }
    }

    /// The next line. Fails when nothing at all comes for as long as `silence`.
    pub(super) async fn next(&mut self, silence: Duration) -> Result<Line, ReadError> {
        loop {
            if let Some(end) = memchr(b'\n', &self.buffer[self.searched..]) {
                let mut line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                return Ok(if std::mem::take(&mut self.skipping) { Line::TooLong } else { Line::Whole(line) });
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST {
                self.buffer.clear();
                self.searched = 0;
                self.skipping = true;
            }
            match timeout(silence, self.body.next()).await.map_err(|_| ReadError::Silent(silence))? {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(ReadError::Transport(error.into())),
                None => return Ok(Line::End),
            }
        }
    }
}
