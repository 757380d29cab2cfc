//! Changes at full speed, for measuring: prepared lines in which only the version is new.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::stand_in::{render, store::Stored};

/// How much is handed to the connection at once: enough that the calls do not count.
const BLOCK_BYTES: usize = 256 * 1024;

/// A run of `MODIFIED` events over some pods, in turn.
#[derive(Clone)]
pub(super) struct Flood {
    lines: Arc<Vec<Line>>,
    next_version: u64,
    left: u64,
    turn: usize,
    sent: watch::Sender<u64>,
}

struct Line {
    bytes: Bytes,
    /// Where the ten digits of the version are.
    version_at: usize,
}

impl Flood {
    /// `count` events with versions from `first_version`; `sent` is told how many have been handed out.
    pub(super) fn new(pods: &[Stored], first_version: u64, count: u64, sent: watch::Sender<u64>) -> Self {
        assert!(!pods.is_empty(), "a flood changes pods that exist");
        let lines = Arc::new(pods.iter().map(Line::new).collect());
        Self { lines, next_version: first_version, left: count, turn: 0, sent }
    }

    /// The next block, none at the end.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let mut block = BytesMut::with_capacity(BLOCK_BYTES + self.lines[self.turn].bytes.len());
        let mut events = 0;
        while block.len() < BLOCK_BYTES && events < self.left {
            let line = &self.lines[self.turn];
            let at = block.len() + line.version_at;
            block.extend_from_slice(&line.bytes);
            block[at..at + 10].copy_from_slice(&digits(self.next_version));
            self.next_version += 1;
            self.turn = (self.turn + 1) % self.lines.len();
            events += 1;
        }
        self.left -= events;
        self.sent.send_modify(|sent| *sent += events);
        Some(block.freeze())
    }
}

impl Line {
    fn new(pod: &Stored) -> Self {
        let bytes = render::event("MODIFIED", &pod.item);
        let field = format!(r#""resourceVersion":"{}""#, pod.version);
        let at = bytes.windows(field.len()).position(|window| window == field.as_bytes());
        let version_at = at.expect("a stored pod has its version") + r#""resourceVersion":""#.len();
        Self { bytes, version_at }
    }
}

fn digits(mut version: u64) -> [u8; 10] {
    let mut digits = [b'0'; 10];
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(version % 10).expect("a digit is small");
        version /= 10;
    }
    digits
}
