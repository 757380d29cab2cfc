//! Signatures by Standard Webhooks 1.0, so that a receiver can tell our requests from others'.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;

/// A secret shared with receivers: base64, with or without the `whsec_` before it.
#[derive(Clone)]
pub struct Secret(hmac::Key);

/// What keys may be made of (Standard Webhooks 1.0: 24 to 64 bytes).
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Why a text is no secret. It does not quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It is not base64.
    #[error("a webhook secret is base64, as in whsec_…; `openssl rand -base64 32` makes one")]
    Base64,
    /// It is too short or too long.
    #[error("a webhook secret is 24 to 64 bytes in base64, this one is {0}; `openssl rand -base64 32` makes one")]
    Length(usize),
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let base64 = text.strip_prefix("whsec_").unwrap_or(text);
        let bytes = STANDARD.decode(base64).map_err(|_| SecretError::Base64)?;
        if !BYTES.contains(&bytes.len()) {
            return Err(SecretError::Length(bytes.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The value of `webhook-signature`: one signature by each secret, separated by blanks, of `ID.TIMESTAMP.BODY`.
/// `timestamp` is the attempt's, in seconds since 1970.
#[must_use]
pub fn signatures(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let one = |Secret(key): &Secret| {
        let mut context = hmac::Context::with_key(key);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    };
    secrets.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks reference implementations.
    #[test]
    fn signs_the_published_example() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signatures(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn signs_with_each_secret_while_they_are_rotated() {
        let old: Secret = STANDARD.encode([1; 24]).parse().unwrap();
        let new: Secret = STANDARD.encode([2; 64]).parse().unwrap();
        let both = signatures(&[old.clone(), new.clone()], "id", 1, b"body");
        let each = [signatures(&[old], "id", 1, b"body"), signatures(&[new], "id", 1, b"body")].join(" ");
        assert_eq!(both, each);
    }

    #[test]
    fn a_secret_of_the_wrong_form_is_refused_without_being_told() {
        for (text, error) in [
            ("whsec_not base64!", SecretError::Base64),
            (&STANDARD.encode([0; 23]), SecretError::Length(23)),
            (&STANDARD.encode([0; 65]), SecretError::Length(65)),
            ("", SecretError::Length(0)),
        ] {
            assert_eq!(text.parse::<Secret>().err(), Some(error), "{text}");
        }
        let secret: Secret = STANDARD.encode([7; 32]).parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
