//! The lines of a watch.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::BodyDataStream;
use kube::client::Body;
use memchr::memchr;
use tokio::time::timeout;

use super::error::ReadError;

/// The longest event that is taken in. etcd holds no object over 1.5 MiB by default, and no managed fields make eight
/// times that of it; what is longer is no pod.
pub(super) const LONGEST: usize = 16 << 20;

/// Splits the body of a watch into lines.
pub(super) struct Lines<S = BodyDataStream<Body>> {
    body: S,
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

impl<S, E> Lines<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(body: S) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0, skipping: false }
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

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(150);

    fn chunks(chunks: Vec<Vec<u8>>) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Unpin {
        stream::iter(chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk))))
    }

    /// All lines: their texts, and `None` for one that is too long.
    async fn all(mut lines: Lines<impl Stream<Item = Result<Bytes, std::io::Error>> + Unpin>) -> Vec<Option<Vec<u8>>> {
        let mut all = Vec::new();
        loop {
            match lines.next(SILENCE).await.unwrap() {
                Line::Whole(line) => all.push(Some(line.to_vec())),
                Line::TooLong => all.push(None),
                Line::End => return all,
            }
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over_in_bounded_memory() {
        let mut parts = vec![b"a\n".to_vec()];
        parts.extend((0..40).map(|_| vec![b'x'; 1 << 20]));
        parts.push(b"x\nb\n".to_vec());
        let mut lines = Lines::new(chunks(parts));
        assert!(matches!(lines.next(SILENCE).await, Ok(Line::Whole(line)) if line == "a"));
        assert!(matches!(lines.next(SILENCE).await, Ok(Line::TooLong)));
        assert!(lines.buffer.capacity() < 2 * LONGEST + (2 << 20));
        assert_eq!(all(lines).await, [Some(b"b".to_vec())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_says_nothing_for_too_long_is_given_up() {
        let start = tokio::time::Instant::now();
        let mut lines = Lines::new(chunks(vec![b"a\nb".to_vec()]).chain(stream::pending()));
        assert!(matches!(lines.next(SILENCE).await, Ok(Line::Whole(_))));
        assert!(matches!(lines.next(SILENCE).await, Err(ReadError::Silent(SILENCE))));
        assert_eq!(start.elapsed(), SILENCE);
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(text in "[ab\n]{0,40}", cuts in prop::collection::vec(0..40usize, 0..8)) {
            let mut parts = vec![];
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (chunk, tail) = rest.split_at(cut.min(rest.len()));
                parts.push(chunk.to_vec());
                rest = tail;
            }
            parts.push(rest.to_vec());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let found = runtime.block_on(all(Lines::new(chunks(parts))));
            // What has no line end at the end is no line.
            let whole = text.rsplit_once('\n').map(|(whole, _)| whole);
            let expected: Vec<_> = whole.into_iter().flat_map(|w| w.split('\n')).map(|l| Some(l.as_bytes().to_vec())).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
