//! Clients that do not read, or do not send, in time.

use std::error::Error;
use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

/// A stream that fails if what was written to it is not taken within a time, whether it is taken in small bites or not at all.
pub struct Paced<S> {
    stream: S,
    patience: Duration,
    /// Since something had to wait, until everything was taken.
    late: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub const fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, late: None }
    }

    /// What becomes of a write: `all` says whether that much is all that was to be written.
    fn paced(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        all: usize,
    ) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(taken)) if taken >= all) || matches!(written, Poll::Ready(Err(_)))
        {
            self.late = None;
            return written;
        }
        let patience = self.patience;
        let late = self.late.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        if late.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")));
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.paced(context, written, buffer.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = buffers.iter().map(|buffer| buffer.len()).sum();
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.paced(context, written, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The body of a request did not come in time.
#[derive(Debug)]
pub struct TooSlow(pub Duration);

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body has not come within {} s", self.0.as_secs())
    }
}

impl Error for TooSlow {}

/// A request's body that has to come within a time, from when it is first asked for.
pub struct Timed<B> {
    body: B,
    patience: Duration,
    late: Option<Pin<Box<Sleep>>>,
}

impl<B> Timed<B> {
    pub const fn new(body: B, patience: Duration) -> Self {
        Self { body, patience, late: None }
    }
}

impl<B> HttpBody for Timed<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let patience = self.patience;
        let late = self.late.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        if late.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Box::new(TooSlow(patience)))));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer that holds a place for as long as it is in memory: it is given away in pieces, the last one with the place.
pub struct Held {
    body: Body,
    piece: Bytes,
    _place: OwnedSemaphorePermit,
}

/// How much of an answer is given to the connection at once, in bytes.
const PIECE: usize = 64 << 10;

impl Held {
    pub const fn new(body: Body, place: OwnedSemaphorePermit) -> Self {
        Self { body, piece: Bytes::new(), _place: place }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.piece.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
            }
        }
        let length = self.piece.len().min(PIECE);
        let piece = self.piece.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.piece.len() as u64;
        match self.body.size_hint().exact() {
            Some(exact) => SizeHint::with_exact(exact + rest),
            None => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::sync::Semaphore;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    fn wait<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn a_client_that_does_not_read_or_reads_in_small_bites_is_cut_off() {
        wait(async {
            for bites in [false, true] {
                let (here, mut there) = UnixStream::pair().unwrap();
                let mut paced = Paced::new(here, SHORT);
                let reading = async {
                    let mut bite = [0; 512];
                    let mut taken = 1;
                    while bites && taken > 0 {
                        taken = there.read(&mut bite).await.unwrap();
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    std::future::pending::<()>().await;
                };
                let large = vec![0; 64 << 20];
                let outcome = tokio::select! {
                    outcome = paced.write_all(&large) => outcome,
                    () = reading => unreachable!(),
                };
                assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut, "bites: {bites}");
            }
        });
    }

    #[test]
    fn a_client_that_reads_gets_all_of_it() {
        wait(async {
            let (here, mut there) = UnixStream::pair().unwrap();
            let mut paced = Paced::new(here, LONG);
            let large = vec![7; 8 << 20];
            let mut got = Vec::new();
            let (written, read) = tokio::join!(
                async {
                    paced.write_all(&large).await?;
                    paced.shutdown().await
                },
                there.read_to_end(&mut got)
            );
            assert!(written.is_ok() && read.unwrap() == large.len());
        });
    }

    #[test]
    fn a_body_that_does_not_come_in_time_says_so() {
        wait(async {
            let outcome = Timed::new(Never, SHORT).collect().await;
            assert!(outcome.unwrap_err().to_string().contains("has not come within"));
            let whole = Timed::new(Body::from("all"), LONG).collect().await.unwrap().to_bytes();
            assert_eq!(&whole[..], b"all");
        });
    }

    /// A body of which nothing comes.
    struct Never;

    impl HttpBody for Never {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_large_answer_keeps_its_place_until_its_last_piece() {
        wait(async {
            let places = Arc::new(Semaphore::new(1));
            let place = Arc::clone(&places).acquire_owned().await.unwrap();
            let mut held = Held::new(Body::from(vec![1; 3 * PIECE + 1]), place);
            assert_eq!(held.size_hint().exact(), Some(3 * PIECE as u64 + 1));
            let mut sizes = Vec::new();
            while let Some(frame) = held.frame().await {
                sizes.push(frame.unwrap().into_data().unwrap().len());
                assert_eq!(places.available_permits(), 0);
            }
            assert_eq!(sizes, [PIECE, PIECE, PIECE, 1]);
            drop(held);
            assert_eq!(places.available_permits(), 1);
        });
    }
}
