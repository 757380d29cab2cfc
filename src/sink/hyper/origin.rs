//! Which server a URI means: what connections are kept by.

use http::{HeaderValue, Uri, uri::Authority};

/// Scheme, host and port of a URI, written in one way only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    /// `https`, otherwise `http`.
    secure: bool,
    /// Host, and the port where it is not the scheme's own.
    authority: Authority,
}

/// The URI of a request that this sink cannot post to.
#[derive(Debug, thiserror::Error)]
#[error("the URI is not an absolute http or https one with a valid host and port, and without user info")]
pub(super) struct NotAbsolute;

impl Origin {
    /// The origin of an absolute `http` or `https` URI without user info; `None` for any other URI.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let secure = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host();
        let port = authority.as_str().strip_prefix(host).filter(|_| !host.is_empty())?;
        let authority = match port {
            "" => authority.clone(),
            ":" => host.parse().ok()?,
            _ if authority.port_u16()? == default_port(secure) => host.parse().ok()?,
            _ => authority.clone(),
        };
        Some(Self { secure, authority })
    }

    /// Whether TLS is spoken to it.
    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host as a TLS name: without the brackets of an IPv6 literal.
    pub(super) fn name(&self) -> &str {
        let host = self.authority.host();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// Host and port for a tunnel, which has no default port.
    pub(super) fn with_port(&self) -> String {
        let port = self.authority.port_u16().unwrap_or(default_port(self.secure));
        format!("{}:{port}", self.authority.host())
    }

    /// What HTTP/1.1 says in `Host`.
    pub(super) fn host_header(&self) -> HeaderValue {
        HeaderValue::from_str(self.authority.as_str()).expect("an authority is visible ASCII")
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_in_one_way_only() {
        #[rustfmt::skip]
        let table = [
            // URI                       Host               tunnel             TLS name
            ("http://a.example",         "a.example",       "a.example:80",    "a.example"),
            ("http://a.example:80/x?y",  "a.example",       "a.example:80",    "a.example"),
            ("http://a.example:/",       "a.example",       "a.example:80",    "a.example"),
            ("http://a.example:443/",    "a.example:443",   "a.example:443",   "a.example"),
            ("https://a.example:443/",   "a.example",       "a.example:443",   "a.example"),
            ("https://a.example:8443/",  "a.example:8443",  "a.example:8443",  "a.example"),
            ("https://[::1]/",           "[::1]",           "[::1]:443",       "::1"),
            ("http://[::1]:8080/",       "[::1]:8080",      "[::1]:8080",      "::1"),
            ("http://192.0.2.1:80/",     "192.0.2.1",       "192.0.2.1:80",    "192.0.2.1"),
        ];
        for (uri, host, tunnel, name) in table {
            let origin = Origin::of(&uri.parse().unwrap()).unwrap();
            assert_eq!(origin.host_header(), host, "{uri}");
            assert_eq!(origin.with_port(), tunnel, "{uri}");
            assert_eq!(origin.name(), name, "{uri}");
        }
    }

    #[test]
    fn two_ways_to_write_an_origin_are_one() {
        let origin = |uri: &str| Origin::of(&uri.parse().unwrap()).unwrap();
        assert_eq!(origin("http://A.Example/"), origin("http://a.example:80/x"));
        assert_ne!(origin("http://a.example/"), origin("https://a.example/"));
        assert_ne!(origin("http://a.example:443/"), origin("https://a.example/"));
    }

    #[test]
    fn what_is_no_webhook_has_no_origin() {
        for uri in ["/path", "a.example:80", "ftp://a.example/", "http://u:p@a.example/", "http://a.example:99999/"] {
            if let Ok(uri) = uri.parse() {
                assert_eq!(Origin::of(&uri), None, "{uri}");
            }
        }
    }
}
