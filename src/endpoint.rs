//! One webhook URL, and how it is spoken of without telling its secrets.

use std::{fmt, hash, str::FromStr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Uri, uri::Scheme};

use crate::digest::Digest;

/// A webhook: an absolute http or https URL. Cheap to clone, equal when the URL is the same text.
///
/// `Display` and `Debug` show it [without its secrets](Endpoint::label).
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    url: Box<str>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    label: Box<str>,
    digest: Digest,
}

/// Why a text is no endpoint. It does not quote the text, which may hold secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is no URL.
    #[error("not a URL; a webhook URL is like https://example.com/path")]
    Malformed,
    /// It has no scheme or no host.
    #[error("not absolute; a webhook URL begins with http:// or https:// and a host")]
    Relative,
    /// Its scheme is another one.
    #[error("neither http:// nor https://")]
    Scheme,
}

impl Endpoint {
    /// The URL to POST to, without user info.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0.uri
    }

    /// The `Authorization` that the URL's user info stands for (Basic, RFC 7617).
    #[must_use]
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.0.authorization.as_ref()
    }

    /// The URL for logs and metrics: no user info, no query, no part of the path that looks like a secret. Where
    /// something was left out, the beginning of a digest of the whole URL tells it from others.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// What stands for the whole URL where it must not be told.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(EndpointError::Relative);
        };
        if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
            return Err(EndpointError::Scheme);
        }
        if authority.host().is_empty() {
            return Err(EndpointError::Relative);
        }
        let (user_info, host) = match authority.as_str().rsplit_once('@') {
            Some((user_info, host)) => (Some(user_info), host),
            None => (None, authority.as_str()),
        };
        let path_and_query = uri.path_and_query().map_or("/", |p| p.as_str());
        let plain = format!("{scheme}://{host}{path_and_query}").parse().map_err(|_| EndpointError::Malformed)?;
        let digest = Digest::of(text);
        Ok(Self(Arc::new(Inner {
            authorization: user_info.map(basic).transpose()?,
            label: label(scheme, host, &uri, user_info.is_some(), digest).into(),
            uri: plain,
            digest,
            url: text.into(),
        })))
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        self.0.url == other.0.url
    }
}

impl Eq for Endpoint {}

impl hash::Hash for Endpoint {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.digest.hash(state);
    }
}

impl PartialOrd for Endpoint {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Endpoint {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.url.cmp(&other.0.url)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.label())
    }
}

fn basic(user_info: &str) -> Result<HeaderValue, EndpointError> {
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(percent_decode(user_info))))
        .map_err(|_| EndpointError::Malformed)?;
    value.set_sensitive(true);
    Ok(value)
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        let byte = if first == b'%' { hex } else { None };
        out.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    out
}

fn label(scheme: &Scheme, host: &str, uri: &Uri, user_info: bool, digest: Digest) -> String {
    let mut withheld = user_info || uri.query().is_some();
    let segments = uri.path().split('/').map(|segment| {
        if looks_secret(segment) {
            withheld = true;
            "…"
        } else {
            segment
        }
    });
    let path = segments.collect::<Vec<_>>().join("/");
    let mark = if withheld { format!("#{}", digest.short()) } else { String::new() };
    format!("{scheme}://{host}{path}{mark}")
}

/// Whether a segment of a path may be a token: webhook URLs of chat and incident tools carry theirs in the path.
///
/// One of its words is so long that it is hardly a word, or has a digit and is longer than a version ("v1", "2024").
fn looks_secret(segment: &str) -> bool {
    let words = segment.split(|c: char| !c.is_alphanumeric());
    words.into_iter().any(|word| word.len() >= 16 || (word.len() >= 8 && word.bytes().any(|b| b.is_ascii_digit())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        url.parse().unwrap()
    }

    #[test]
    fn only_absolute_http_urls_are_endpoints() {
        for (url, error) in [
            ("", EndpointError::Malformed),
            ("not a url", EndpointError::Malformed),
            ("/path", EndpointError::Relative),
            ("example.com", EndpointError::Relative),
            ("example.com/path", EndpointError::Malformed),
            ("http://", EndpointError::Malformed),
            ("http://user@/path", EndpointError::Malformed),
            ("ftp://example.com/", EndpointError::Scheme),
            ("file:///etc/passwd", EndpointError::Malformed),
        ] {
            assert_eq!(url.parse::<Endpoint>().err(), Some(error), "{url:?}");
        }
        for url in ["http://example.com", "https://example.com:8443/a?b=c", "HTTP://[::1]:8080/", "https://u:p@h/"] {
            assert!(url.parse::<Endpoint>().is_ok(), "{url}");
        }
    }

    #[test]
    fn user_info_becomes_basic_authorization_and_leaves_the_url() {
        let endpoint = endpoint("https://user:p%40ss@example.com:8443/hook?x=1");
        assert_eq!(endpoint.uri(), "https://example.com:8443/hook?x=1");
        assert_eq!(endpoint.authorization().unwrap(), &format!("Basic {}", STANDARD.encode("user:p@ss")));
        assert!(endpoint.authorization().unwrap().is_sensitive());
    }

    #[test]
    fn a_label_tells_no_secret() {
        for (url, label) in [
            ("https://example.com", "https://example.com/"),
            ("https://example.com/atomist/kube/v1", "https://example.com/atomist/kube/v1"),
            ("http://127.0.0.1:8080/hook", "http://127.0.0.1:8080/hook"),
        ] {
            assert_eq!(endpoint(url).label(), label);
        }
        for (url, start) in [
            ("https://example.com/hook?token=secret", "https://example.com/hook#"),
            ("https://user:secret@example.com/hook", "https://example.com/hook#"),
            (
                "https://example.com/services/T012SECRET/B345SECRET/abcSECRETdefSECRETghi",
                "https://example.com/services/…/…/…#",
            ),
        ] {
            let endpoint = endpoint(url);
            assert!(endpoint.label().starts_with(start), "{endpoint}");
            assert!(!format!("{endpoint} {endpoint:?}").to_lowercase().contains("secret"), "{endpoint}");
        }
    }

    #[test]
    fn endpoints_that_differ_in_their_secrets_have_different_labels() {
        assert_ne!(endpoint("https://h/?t=1").label(), endpoint("https://h/?t=2").label());
    }
}
