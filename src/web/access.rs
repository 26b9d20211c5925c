//! Who may ask: the token, compared in constant time, and, where there is none, requests from this
//! machine alone, which a page of another site in a browser on this machine is not. Decides; sends
//! nothing.

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// What a request must show.
#[derive(Debug, Clone)]
pub struct Access {
    /// Digest of the token; `None` asks for none.
    token: Option<[u8; 32]>,
    /// Paths that need no token.
    open: &'static [&'static str],
    /// A browser is asked for the token (as the password of any user).
    browser: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No token or a wrong one.
    Token,
    /// Named by a host that is not this machine.
    Host,
    /// Sent by a page of another site.
    Origin,
}

impl Refused {
    /// Status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Refused::Token => StatusCode::UNAUTHORIZED,
            Refused::Host | Refused::Origin => StatusCode::FORBIDDEN,
        }
    }

    /// What is wrong and what to do.
    pub fn message(self) -> &'static str {
        match self {
            Refused::Token => {
                "the token is missing or wrong; send `Authorization: Bearer <token>` with the \
                 token that the server was started with"
            }
            Refused::Host => {
                "without a token the server answers only to localhost; address it as \
                 http://127.0.0.1, or start it with a token"
            }
            Refused::Origin => {
                "pages of other sites may not ask a server without a token; start it with one"
            }
        }
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Whether two digests are equal, in a time that does not tell where they differ.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// Whether a host, with or without its port, is this machine by one of its loopback names.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Access {
    /// Access with this token.
    pub fn new(token: Option<&str>, open: &'static [&'static str], browser: bool) -> Self {
        Access { token: token.map(|t| digest(t.as_bytes())), open, browser }
    }

    /// The header that tells a client what to send; `None` unless the token was refused.
    pub fn challenge(&self, why: Refused) -> Option<&'static str> {
        (why == Refused::Token).then_some(match self.browser {
            true => "Basic realm=\"grpo-rt\", charset=\"UTF-8\"",
            false => "Bearer",
        })
    }

    /// Sees whether a request for `path` with these headers may be answered.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Refused> {
        let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        let Some(token) = &self.token else {
            // A name that another machine's DNS points here (rebinding) is not ours.
            if !text(header::HOST).is_some_and(is_loopback) {
                return Err(Refused::Host);
            }
            let foreign =
                |origin: &str| !origin.split_once("://").is_some_and(|(_, host)| is_loopback(host));
            return match headers.get(header::ORIGIN).map(|v| v.to_str().map_or(true, foreign)) {
                Some(true) => Err(Refused::Origin),
                _ => Ok(()),
            };
        };
        if self.open.contains(&path) {
            return Ok(());
        }
        let shown = text(header::AUTHORIZATION).and_then(|v| v.split_once(' '));
        let shown = match shown {
            Some((scheme, value)) if scheme.eq_ignore_ascii_case("bearer") => {
                Some(value.trim().as_bytes().to_vec())
            }
            Some((scheme, value)) if self.browser && scheme.eq_ignore_ascii_case("basic") => {
                let pair = STANDARD.decode(value.trim()).unwrap_or_default();
                let colon = pair.iter().position(|b| *b == b':');
                colon.map(|at| pair[at + 1..].to_vec())
            }
            _ => None,
        };
        match shown.is_some_and(|shown| equal(&digest(&shown), token)) {
            true => Ok(()),
            false => Err(Refused::Token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(HeaderName, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn without_a_token_only_this_machine_asks() {
        let access = Access::new(None, &[], false);
        for host in ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:80", "[::1]", "127.9.9.9"]
        {
            assert_eq!(access.check("/", &headers(&[(header::HOST, host)])), Ok(()), "{host}");
        }
        for host in ["example.com", "localhost.example.com:80", "10.0.0.1", "", "[::2]:80", "[::1"]
        {
            let asked = access.check("/", &headers(&[(header::HOST, host)]));
            let want = if host == "[::1" { Ok(()) } else { Err(Refused::Host) };
            assert_eq!(asked, want, "{host}");
        }
        assert_eq!(access.check("/", &HeaderMap::new()), Err(Refused::Host));
        let from = |origin| headers(&[(header::HOST, "localhost"), (header::ORIGIN, origin)]);
        assert_eq!(access.check("/", &from("http://localhost:3000")), Ok(()));
        assert_eq!(access.check("/", &from("http://127.0.0.1")), Ok(()));
        for origin in ["https://example.com", "null", "http://localhost.example.com"] {
            assert_eq!(access.check("/", &from(origin)), Err(Refused::Origin), "{origin}");
        }
    }

    #[test]
    fn a_token_is_asked_for_and_compared_whole() {
        let access = Access::new(Some("s3cret"), &["/health"], true);
        let with = |value| headers(&[(header::AUTHORIZATION, value)]);
        assert_eq!(access.check("/health", &HeaderMap::new()), Ok(()));
        assert_eq!(access.check("/x", &HeaderMap::new()), Err(Refused::Token));
        for right in ["Bearer s3cret", "bearer  s3cret ", "Basic YW55OnMzY3JldA=="] {
            assert_eq!(access.check("/x", &with(right)), Ok(()), "{right}");
        }
        for wrong in
            ["Bearer s3cre", "Bearer s3cret1", "s3cret", "Bearer", "Basic s3cret", "Basic %"]
        {
            assert_eq!(access.check("/x", &with(wrong)), Err(Refused::Token), "{wrong}");
        }
        let api = Access::new(Some("s3cret"), &[], false);
        assert_eq!(api.check("/x", &with("Basic YW55OnMzY3JldA==")), Err(Refused::Token));
        assert_eq!(api.challenge(Refused::Token), Some("Bearer"));
        assert_eq!(api.challenge(Refused::Host), None);
    }
}
