//! How far each endpoint has come: the one number of each that a start needs to know of those before it.
//!
//! Resource versions grow, so "everything up to this version has ended in one of the counters" tells of every state
//! whether an endpoint may still need it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::ParseIntError,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{digest::Digest, pod::ResourceVersion, route::Origin};

/// The most endpoints with a version of their own. A record of so many has 5 kB; the annotations of an object may have
/// 256 kB (`TotalAnnotationSizeLimitB` in Kubernetes' API validation).
pub const ENDPOINTS: usize = 128;

/// Per endpoint, the resource version up to which each of its states has ended: was accepted, replaced by a newer one,
/// given up or refused.
///
/// As text it is one line of JSON, with digests in place of URLs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// What was read: which pods of which cluster.
    selection: Digest,
    /// The version of every endpoint of an annotation that is not in `endpoints`.
    common: Number,
    /// All global endpoints, and those of annotations that are behind.
    endpoints: BTreeMap<Digest, Number>,
}

/// A resource version as text: JSON's numbers are not exact beyond 2^53 everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct Number(u64);

/// A text is no position.
#[derive(Debug, thiserror::Error)]
#[error("not a position of k8vent")]
pub struct Malformed(#[from] serde_json::Error);

impl Position {
    /// The position when every event up to `seen` has been read, the endpoints of `behind` have come as far as they say,
    /// and no other endpoint has anything left.
    ///
    /// Where too many endpoints of annotations are behind, the foremost of them share the version of the last one among
    /// them: some states will be sent to them again.
    #[must_use]
    pub fn new(
        selection: Digest,
        seen: ResourceVersion,
        global: impl IntoIterator<Item = Digest>,
        behind: impl IntoIterator<Item = (Digest, ResourceVersion)>,
    ) -> Self {
        let mut endpoints: BTreeMap<_, _> = global.into_iter().map(|digest| (digest, Number(seen.0))).collect();
        let mut annotated = Vec::new();
        for (digest, ResourceVersion(ended)) in behind {
            match endpoints.get_mut(&digest) {
                Some(global) => *global = Number(ended),
                None => annotated.push((Number(ended), digest)),
            }
        }
        annotated.sort_unstable();
        let folded = annotated.split_off(annotated.len().min(ENDPOINTS.saturating_sub(endpoints.len())));
        endpoints.extend(annotated.into_iter().map(|(ended, digest)| (digest, ended)));
        let common = folded.first().map_or(Number(seen.0), |(ended, _)| *ended);
        Self { selection, common, endpoints }
    }

    /// What was read.
    #[must_use]
    pub fn selection(&self) -> Digest {
        self.selection
    }

    /// Up to where everything has ended for an endpoint that `origin` names; `None` when a global one was not there.
    #[must_use]
    pub fn of(&self, endpoint: Digest, origin: Origin) -> Option<ResourceVersion> {
        let number = match (self.endpoints.get(&endpoint), origin) {
            (Some(own), _) => *own,
            (None, Origin::Annotation) => self.common,
            (None, Origin::Global) => return None,
        };
        Some(ResourceVersion(number.0))
    }

    /// The versions of all endpoints, in rising order. A watch from the first of them misses nothing that any endpoint
    /// may need; one from a later of them, nothing that the endpoints may need which have come so far.
    #[must_use]
    pub fn versions(&self) -> Vec<ResourceVersion> {
        let distinct: BTreeSet<_> = self.endpoints.values().chain([&self.common]).collect();
        distinct.into_iter().map(|Number(version)| ResourceVersion(*version)).collect()
    }

    /// The newest version that it tells of.
    #[must_use]
    pub fn newest(&self) -> ResourceVersion {
        ResourceVersion(self.endpoints.values().fold(self.common, |newest, own| newest.max(*own)).0)
    }
}

impl From<Number> for String {
    fn from(Number(version): Number) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Number {
    type Error = ParseIntError;

    fn try_from(text: String) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(&json)
    }
}

impl FromStr for Position {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Ok(serde_json::from_str(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> Digest {
        format!("{number:x}").try_into().unwrap()
    }

    fn version(version: u64) -> ResourceVersion {
        ResourceVersion(version)
    }

    #[test]
    fn what_is_not_behind_has_come_as_far_as_was_seen() {
        let position = Position::new(digest(1), version(9), [digest(2), digest(3)], [(digest(3), version(4))]);
        assert_eq!(position.of(digest(2), Origin::Global), Some(version(9)));
        assert_eq!(position.of(digest(3), Origin::Global), Some(version(4)));
        assert_eq!(position.of(digest(7), Origin::Annotation), Some(version(9)));
        assert_eq!((position.versions(), position.newest()), (vec![version(4), version(9)], version(9)));
    }

    #[test]
    fn a_global_endpoint_that_was_not_there_has_no_position() {
        let position = Position::new(digest(1), version(9), [digest(2)], [(digest(5), version(4))]);
        assert_eq!(position.of(digest(3), Origin::Global), None);
        assert_eq!(position.of(digest(5), Origin::Annotation), Some(version(4)));
    }

    #[test]
    fn the_record_is_bounded_and_the_rest_is_folded_into_its_last() {
        let behind = (0..10_000).map(|n| (digest(1000 + n), version(100 + n)));
        let position = Position::new(digest(1), version(20_000), [digest(2)], behind);
        assert!(position.to_string().len() < 8 << 10, "{}", position.to_string().len());
        assert_eq!(position.of(digest(2), Origin::Global), Some(version(20_000)));
        for n in 0..10_000 {
            let kept = position.of(digest(1000 + n), Origin::Annotation).unwrap();
            assert!(kept <= version(100 + n), "{n}: nothing may be passed over");
        }
        assert_eq!(position.versions()[0], version(100));
    }

    #[test]
    fn it_is_the_same_after_it_was_text() {
        let position = Position::new(digest(u64::MAX), version(u64::MAX), [digest(0)], [(digest(3), version(4))]);
        let text = r#"{"selection":"ffffffffffffffff","common":"18446744073709551615","endpoints":{"0000000000000000":"18446744073709551615","0000000000000003":"4"}}"#;
        assert_eq!(position.to_string(), text);
        assert_eq!(text.parse::<Position>().unwrap(), position);
        assert!("{}".parse::<Position>().is_err());
        assert!(text.replace('4', "x").parse::<Position>().is_err());
    }
}
