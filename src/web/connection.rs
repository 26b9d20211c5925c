//! Connections of the server: a bounded number of places, and an end for those that hold one without
//! asking or reading anything. Knows bytes and clocks; no request, no route.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// A listener that accepts a connection only when there is a place for it; others wait unaccepted.
pub(super) struct Gatekeeper {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle: Duration,
}

impl Gatekeeper {
    /// At most `connections` at a time, each idle for at most `idle`.
    pub(super) fn new(listener: TcpListener, connections: usize, idle: Duration) -> Self {
        let places = connections.clamp(1, Semaphore::MAX_PERMITS);
        Gatekeeper { listener, places: Arc::new(Semaphore::new(places)), idle }
    }
}

impl Listener for Gatekeeper {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed, so there is always a permit in the end.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, from) = Listener::accept(&mut self.listener).await;
        // Tokens are sent one by one; where the system cannot, they come a little later.
        let _ = stream.set_nodelay(true);
        let idle = self.idle;
        let requests = Requests::default();
        let connection = Connection {
            stream,
            requests,
            idle,
            quiet: Box::pin(sleep(idle)),
            stalled: None,
            _place: place,
        };
        (connection, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Requests of one connection that wait for the head of their answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests(Arc<AtomicUsize>);

impl Requests {
    /// One more, until the result is dropped.
    pub(super) fn begin(&self) -> Begun {
        self.0.fetch_add(1, Ordering::Relaxed);
        Begun(self.0.clone())
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// See [`Requests::begin`].
pub(super) struct Begun(Arc<AtomicUsize>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Gatekeeper>> for Requests {
    fn connect_info(stream: IncomingStream<'_, Gatekeeper>) -> Self {
        stream.io().requests.clone()
    }
}

/// A connection that is closed when, for the time that it may be idle, no request is under way and
/// nothing was written (a head that comes byte by byte does not count), or the other side reads
/// nothing of what is written.
pub(super) struct Connection {
    stream: TcpStream,
    requests: Requests,
    idle: Duration,
    quiet: Pin<Box<Sleep>>,
    /// Runs while a write waits for the reader.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Option<OwnedSemaphorePermit>,
}

fn too_quiet(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} for too long"))
}

impl Connection {
    fn rest(&mut self) {
        let until = Instant::now() + self.idle;
        self.quiet.as_mut().reset(until);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.quiet.as_mut().poll(cx).is_ready() {
            if !self.requests.any() {
                return Poll::Ready(Err(too_quiet("the client asked nothing")));
            }
            self.rest();
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(done) => {
                self.stalled = None;
                self.rest();
                Poll::Ready(done)
            }
            Poll::Pending => {
                let idle = self.idle;
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(idle)));
                ready!(stalled.as_mut().poll(cx));
                Poll::Ready(Err(too_quiet("the client read nothing")))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
