//! What stands for a text that must not be told.

use std::{fmt, num::ParseIntError};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// The first 64 bits of the SHA-256 of a text. As text, 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(u64);

impl Digest {
    /// The digest of a text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let sum = digest(&SHA256, text.as_bytes());
        Self(sum.as_ref()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The first half of its digits: enough to tell a few apart.
    #[must_use]
    pub fn short(self) -> String {
        format!("{:08x}", self.0 >> 32)
    }
}

impl From<Digest> for u64 {
    fn from(Digest(number): Digest) -> Self {
        number
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseIntError;

    fn try_from(text: String) -> Result<Self, ParseIntError> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc" begins with ba7816bf 8f01cfea (FIPS 180-2, appendix B.1).
    #[test]
    fn it_is_the_beginning_of_a_sha_256() {
        assert_eq!(Digest::of("abc").to_string(), "ba7816bf8f01cfea");
        assert_eq!(Digest::of("abc").short(), "ba7816bf");
        assert_eq!(Digest::try_from("ba7816bf8f01cfea".to_owned()), Ok(Digest::of("abc")));
    }
}
