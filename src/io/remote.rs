//! Files on the network: fetched over HTTP within limits of size and time, and, where the address came from
//! a stranger, never from this machine or its neighbours. Addresses are looked at when a connection is
//! made, after every redirect too, so that no name can hide them.

use crate::base::{Error, Result};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Proxy};

/// What may be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteRules {
    /// Addresses of this machine and of private networks too; and the proxy of the environment is used.
    pub private: bool,
    /// Time for the whole of a file.
    pub time: Duration,
    /// Most bytes of a file.
    pub bytes: u64,
}

/// Fetches files.
pub struct Remote {
    agent: Agent,
    rules: RemoteRules,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Whether a text is an address that [`Remote`] knows.
pub fn is_url(text: &str) -> bool {
    let head = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    head.starts_with("http://") || head.starts_with("https://")
}

impl Remote {
    /// Fetches by these rules.
    pub fn new(rules: RemoteRules) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(true)
            .max_redirects(5)
            .timeout_global(Some(rules.time))
            // Behind a proxy nobody can say which address is asked.
            .proxy(if rules.private { Proxy::try_from_env() } else { None })
            .user_agent(concat!("grpo-rt/", env!("CARGO_PKG_VERSION")))
            .build();
        let resolver = Guarded { private: rules.private, system: DefaultResolver::default() };
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        Remote { agent, rules }
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// If the address is none of `http` and `https`, is not allowed, does not answer in time, or the
    /// file is too long.
    pub fn get(&self, url: &str) -> Result<Vec<u8>> {
        let shown: String = url.chars().take(200).collect();
        if !is_url(url) {
            return Err(Error::data("this address is not fetched")
                .expected("http:// or https://")
                .found(shown));
        }
        let failed = |e: ureq::Error| {
            let error = Error::data("cannot fetch the file").at(shown.clone()).found(e.to_string());
            match e {
                ureq::Error::BodyExceedsLimit(_) => error
                    .expected(format!("at most {} bytes", self.rules.bytes))
                    .hint("use a smaller picture"),
                ureq::Error::HostNotFound if !self.rules.private => {
                    error.hint("addresses of this machine and of private networks are not fetched")
                }
                _ => error.hint("see that the address opens in a browser, or download the file"),
            }
        };
        let mut response = self.agent.get(url).call().map_err(failed)?;
        // The library refuses a body as soon as its limit is reached.
        let body = response.body_mut().with_config().limit(self.rules.bytes + 1);
        body.read_to_vec().map_err(failed)
    }
}

/// Leaves out addresses that may not be asked.
#[derive(Debug)]
struct Guarded {
    private: bool,
    system: DefaultResolver,
}

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.system.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        for address in found.iter().filter(|a| self.private || is_public(a.ip())) {
            allowed.push(*address);
        }
        if allowed.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(allowed) }
    }
}

/// Whether an address belongs to the public network (the special-purpose registries of RFC 6890).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => public_v4(ip),
        IpAddr::V6(ip) => public_v6(ip),
    }
}

fn public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol = (a, b, c) == (192, 0, 0);
    let measured = a == 198 && (18..20).contains(&b);
    !(a == 0
        || a >= 224
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || shared
        || protocol
        || measured)
}

fn public_v6(ip: Ipv6Addr) -> bool {
    if let Some(inside) = ip.to_ipv4_mapped() {
        return public_v4(inside);
    }
    // 2000::/3 is all that is given out; 2002::/16 and 2001::/32 carry other addresses.
    let [first, second, ..] = ip.segments();
    (first & 0xe000) == 0x2000
        && first != 0x2002
        && !(first == 0x2001 && (second == 0 || second == 0xdb8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn rules(private: bool) -> RemoteRules {
        RemoteRules { private, time: Duration::from_secs(20), bytes: 100 }
    }

    #[test]
    fn special_addresses_are_not_public() {
        for ip in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "ff02::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn files_have_limits_and_this_machine_is_not_asked_by_strangers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a.png", listener.local_addr().unwrap());
        let strangers = Remote::new(rules(false));
        for url in [url.as_str(), "http://localhost:1/x", "http://[::1]:1/x"] {
            let error = strangers.get(url).unwrap_err();
            assert!(error.to_string().contains("private networks"), "{url}: {error}");
        }
        for url in ["file:///etc/passwd", "ftp://example.com/x", "x"] {
            assert!(strangers.get(url).unwrap_err().to_string().contains("https://"), "{url}");
        }
        let answers = std::thread::spawn(move || {
            for length in [100, 101] {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                let _ = stream.write_all(&vec![7; length]);
            }
        });
        let ours = Remote::new(rules(true));
        assert_eq!(ours.get(&url).unwrap(), vec![7; 100]);
        assert!(ours.get(&url).unwrap_err().to_string().contains("at most 100 bytes"));
        answers.join().unwrap();
    }
}
