//! Listening: an address that is bound before anything expensive happens, limits on connections, idle
//! time and bodies, access, and an end that lets answers under way finish. What is answered is the
//! business of the router that is served; nothing here knows a model or a run.

use super::access::Access;
use super::connection::{Gatekeeper, Requests};
use crate::base::{Error, ErrorKind, Result};
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::StreamExt;

/// Where a server listens, and what it bears.
#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    /// Name or address of the interface: `127.0.0.1`, `::1`, `localhost`, `0.0.0.0`.
    pub host: String,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// What every request must show; must be there unless the interface is loopback.
    pub token: Option<String>,
    /// Paths that need no token (health checks).
    pub open: &'static [&'static str],
    /// Pages for a browser: it is asked for the token as a password.
    pub browser: bool,
    /// Limits.
    pub limits: Limits,
}

/// What a server bears.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Connections at a time; more wait unaccepted.
    pub connections: usize,
    /// Time without a request, for a whole head, for a whole body, or without the reader reading.
    pub idle: Duration,
    /// Bytes of a request's body.
    pub body: usize,
    /// Time that answers under way have when the server is stopped.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 256,
            idle: Duration::from_secs(60),
            body: 32 << 20,
            drain: Duration::from_secs(30),
        }
    }
}

impl Listen {
    /// A server on the loopback interface, without a token, with the usual limits.
    pub fn loopback(port: u16) -> Self {
        Listen {
            host: "127.0.0.1".into(),
            port,
            token: None,
            open: &[],
            browser: false,
            limits: Limits::default(),
        }
    }

    /// The addresses that `host` names.
    fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let host = self.host.trim_matches(['[', ']']);
        let found = (host, self.port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        found.ok().filter(|all| !all.is_empty()).ok_or_else(|| {
            Error::usage("there is no such interface to listen on")
                .key("host")
                .expected("127.0.0.1, or an address of this machine")
                .found(format!("`{}`", self.host))
        })
    }

    /// Takes the port. Call it before what is served is loaded: a port in use is known at once.
    ///
    /// # Errors
    /// Kind usage if there is no such interface, or it is open to others without a token; kind io if
    /// the port is in use or not allowed.
    pub fn bind(&self) -> Result<Bound> {
        let addresses = self.addresses()?;
        let token = self.token.as_deref();
        if token.is_some_and(|t| t.trim() != t || t.is_empty() || !t.is_ascii()) {
            return Err(Error::usage("the token cannot be sent in a header")
                .key("token")
                .expected("plain characters without spaces around them")
                .hint("make one: openssl rand -hex 24"));
        }
        if token.is_none() && addresses.iter().any(|a| !a.ip().is_loopback()) {
            return Err(Error::usage("others could reach the server, and there is no token")
                .key("host")
                .expected("127.0.0.1, or a token")
                .found(format!("`{}`", self.host))
                .hint("add --token \"$(openssl rand -hex 24)\", or keep --host 127.0.0.1 and reach it through ssh -L"));
        }
        let listener = TcpListener::bind(&addresses[..]).map_err(|e| self.not_bound(&e))?;
        let address = listener.local_addr().map_err(|e| self.not_bound(&e))?;
        Ok(Bound { listener, address, listen: self.clone() })
    }

    fn not_bound(&self, e: &std::io::Error) -> Error {
        let error = Error::new(ErrorKind::Io, "cannot listen")
            .at(format!("{}:{}", self.host, self.port))
            .found(e.to_string());
        match e.kind() {
            std::io::ErrorKind::AddrInUse => error.hint(
                "another program has this port; give another --port, or --port 0 for a free one",
            ),
            std::io::ErrorKind::PermissionDenied => {
                error.hint("ports below 1024 need rights; give another --port")
            }
            _ => error.hint("give another --host or --port"),
        }
    }
}

/// Asks a server to end: no more requests, answers under way finish.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(Arc::new(watch::channel(false).0))
    }
}

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        self.0.send_replace(true);
    }
    /// Whether it was asked.
    pub fn asked(&self) -> bool {
        *self.0.borrow()
    }
    /// Waits until it is asked.
    pub async fn wait(self) {
        let mut seen = self.0.subscribe();
        // The sender is ours: it cannot go away.
        let _ = seen.wait_for(|asked| *asked).await;
    }
}

/// A server that has its port and answers nobody yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    listen: Listen,
}

impl Bound {
    /// The address, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as a person types it; an interface that means "all" is shown as this machine.
    pub fn url(&self) -> String {
        let port = self.address.port();
        match self.address.ip() {
            ip if ip.is_unspecified() => format!("http://127.0.0.1:{port}"),
            IpAddr::V6(ip) => format!("http://[{ip}]:{port}"),
            IpAddr::V4(ip) => format!("http://{ip}:{port}"),
        }
    }

    /// Answers until `stop` is asked for, by this program, Ctrl-C or SIGTERM (a second one of these
    /// ends the program at once). False if answers were cut off because they took longer than the time
    /// that they had.
    ///
    /// # Errors
    /// If the system refuses threads or the listener.
    pub fn serve(self, router: Router, stop: &Stop) -> Result<bool> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let builder = builder.worker_threads(2).max_blocking_threads(16).enable_all();
        let cannot = |e: std::io::Error| {
            Error::device("cannot start the server").found(e.to_string()).hint("raise `ulimit -u`")
        };
        let runtime = builder.thread_name("http").build().map_err(cannot)?;
        let done = runtime.block_on(self.answer(router, stop)).map_err(cannot);
        runtime.shutdown_timeout(Duration::from_secs(2));
        done
    }

    async fn answer(self, router: Router, stop: &Stop) -> std::io::Result<bool> {
        let Listen { token, open, browser, limits, .. } = &self.listen;
        let access = Arc::new(Access::new(token.as_deref(), open, *browser));
        self.listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let listener = Gatekeeper::new(listener, limits.connections, limits.idle);
        let router = router
            .layer(DefaultBodyLimit::max(limits.body))
            .layer(from_fn_with_state(access, admit))
            .into_make_service_with_connect_info::<Requests>();
        tokio::spawn(signals(stop.clone()));
        let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().wait());
        let serving = tokio::spawn(server.into_future());
        stop.clone().wait().await;
        match tokio::time::timeout(limits.drain, serving).await {
            Ok(Ok(ended)) => ended.map(|()| true),
            Ok(Err(panic)) => Err(std::io::Error::other(panic)),
            Err(_) => Ok(false),
        }
    }
}

/// Refuses who may not ask, and notes that the connection waits for an answer.
async fn admit(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<ConnectInfo<Requests>>();
    let _busy = connection.map(|c| c.0.begin());
    if let Err(why) = access.check(request.uri().path(), request.headers()) {
        let mut response = refusal(why.status(), why.message(), None);
        if let Some(challenge) = access.challenge(why) {
            let challenge = HeaderValue::from_static(challenge);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        return response;
    }
    next.run(request).await
}

/// The two signals that end a server: the first asks, the second does not.
async fn signals(stop: Stop) {
    one_signal().await;
    if !stop.asked() {
        eprintln!("\nstopping: answers under way are finished; once more to stop at once");
        stop.ask();
    }
    one_signal().await;
    std::process::exit(130);
}

#[cfg(unix)]
async fn one_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        // Without handlers the signals end the program, which is their meaning.
        return std::future::pending().await;
    };
    std::future::poll_fn(|cx| {
        let any = interrupt.poll_recv(cx).is_ready() || terminate.poll_recv(cx).is_ready();
        if any { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await
}

#[cfg(not(unix))]
async fn one_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// An error as OpenAI's endpoints send it: `{"error": {"message", "type", "param", "code"}}`.
pub fn refusal(status: StatusCode, message: &str, param: Option<&str>) -> Response {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 | 503 => "overloaded_error",
        500..=599 => "server_error",
        _ => "invalid_request_error",
    };
    let body = json!({"error": {
        "message": message, "type": kind, "param": param, "code": status.as_u16(),
    }});
    (status, Json(body)).into_response()
}

/// A request's whole body.
///
/// # Errors
/// The answer to a body that is longer than `limits` allow (413), slower (408) or broken off (400).
pub async fn read_body(body: Body, limits: &Limits) -> std::result::Result<Bytes, Response> {
    let reading = tokio::time::timeout(limits.idle, collect(body, limits.body));
    match reading.await {
        Ok(done) => done,
        Err(_) => Err(refusal(StatusCode::REQUEST_TIMEOUT, "the body took too long", None)),
    }
}

/// A body that is too long is read a little further, because a client that is still sending sees no
/// answer.
async fn collect(body: Body, limit: usize) -> std::result::Result<Bytes, Response> {
    let mut stream = body.into_data_stream();
    let (mut all, mut length) = (Vec::new(), 0);
    while let Some(part) = stream.next().await {
        let Ok(part) = part else {
            return Err(refusal(StatusCode::BAD_REQUEST, "the body broke off", None));
        };
        length += part.len();
        if length <= limit {
            all.extend_from_slice(&part);
        } else if length > limit.saturating_mul(4) {
            break;
        } else {
            all = Vec::new();
        }
    }
    if length <= limit {
        return Ok(all.into());
    }
    let message = format!("the body is longer than {limit} bytes; send smaller images");
    Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, &message, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// What a server says to bytes that are sent to it, until it closes the connection.
    fn said(address: SocketAddr, sent: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(sent).unwrap();
        let mut answer = String::new();
        // A reset after the answer is an end like any other.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn small() -> Listen {
        let limits = Limits {
            connections: 4,
            idle: Duration::from_millis(300),
            body: 1000,
            drain: Duration::from_secs(5),
        };
        Listen { limits, ..Listen::loopback(0) }
    }

    fn serving(listen: Listen, test: impl FnOnce(SocketAddr)) {
        let bound = listen.bind().unwrap();
        let (address, stop, limits) = (bound.address(), Stop::default(), listen.limits);
        let echo = move |body: Body| async move {
            read_body(body, &limits).await.map(|bytes| bytes.len().to_string())
        };
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(900)).await;
            "slow"
        };
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/echo", post(echo))
            .route("/slow", get(slow));
        std::thread::scope(|scope| {
            let server = scope.spawn(|| bound.serve(router, &stop).unwrap());
            test(address);
            stop.ask();
            assert!(server.join().unwrap(), "all answers were finished");
        });
    }

    #[test]
    fn quiet_connections_end_and_busy_ones_do_not() {
        serving(small(), |address| {
            let ask = |path: &str| {
                format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            };
            assert!(said(address, ask("/").as_bytes()).ends_with("here"));
            // It takes three times what a connection may be idle.
            assert!(said(address, ask("/slow").as_bytes()).ends_with("slow"));
            // Neither a head that never ends nor silence holds a place.
            for _ in 0..8 {
                assert!(!said(address, b"GET / HTTP/1.1\r\nhost: local").contains("200"));
            }
            assert_eq!(said(address, b""), "");
            assert!(said(address, ask("/").as_bytes()).ends_with("here"));
        });
    }

    #[test]
    fn bodies_have_a_limit_and_hosts_are_looked_at() {
        serving(small(), |address| {
            let post = |n: usize| {
                let head = "POST /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
                let sent = format!("{head}content-length: {n}\r\n\r\n{}", "x".repeat(n));
                said(address, sent.as_bytes())
            };
            assert!(post(1000).ends_with("1000"));
            for n in [1001, 3000, 100_000] {
                let answer = post(n);
                assert!(
                    answer.is_empty() && n > 4000 || answer.starts_with("HTTP/1.1 413"),
                    "{answer}"
                );
            }
            let unfinished =
                "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nxx";
            assert!(said(address, unfinished.as_bytes()).starts_with("HTTP/1.1 408"));
            let other = "GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n";
            assert!(said(address, other.as_bytes()).starts_with("HTTP/1.1 403"));
        });
    }

    #[test]
    fn addresses_are_checked_before_anything_else() {
        let first = small().bind().unwrap();
        let taken = Listen { port: first.address().port(), ..small() }.bind().unwrap_err();
        assert!(taken.exit_code() == 4 && taken.hint_text().unwrap().contains("--port"), "{taken}");
        let open = Listen { host: "0.0.0.0".into(), ..small() };
        let error = open.bind().unwrap_err();
        assert!(
            error.exit_code() == 2 && error.hint_text().unwrap().contains("--token"),
            "{error}"
        );
        let bound = Listen { token: Some("abc".into()), ..open }.bind().unwrap();
        assert!(bound.url().starts_with("http://127.0.0.1:"));
        let spaced = Listen { token: Some("a b ".into()), ..small() };
        assert!(spaced.bind().unwrap_err().to_string().contains("token"));
        let nowhere = Listen { host: "no such host".into(), ..small() };
        assert_eq!(nowhere.bind().unwrap_err().exit_code(), 2);
    }
}
