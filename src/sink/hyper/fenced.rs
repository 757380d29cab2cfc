//! A stream that takes nothing more once requests may not be sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Stream;
use crate::fence::Fence;

/// A process that wakes after it was stopped has half a request left to write. This does not let it.
pub(super) struct Fenced {
    stream: Stream,
    fence: Fence,
}

impl Fenced {
    /// Lets writes to `stream` pass while `fence` is open.
    pub(super) fn new(stream: Stream, fence: Fence) -> Self {
        Self { stream, fence }
    }

    /// The stream, as long as it may be written to.
    fn writable(&mut self) -> io::Result<Pin<&mut Stream>> {
        if self.fence.is_open() {
            return Ok(Pin::new(&mut self.stream));
        }
        Err(io::Error::other("this replica may not send any more"))
    }
}

impl AsyncRead for Fenced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Fenced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writable()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writable()?.poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // TLS keeps what it could not write, and writes it with the next flush.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writable()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
