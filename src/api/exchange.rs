//! The version of what sites tell one another, and the headers that go with every message.
//!
//! A message of a newer version than ours is refused whole: it may mean something that we would leave out. The version is
//! in a header, so that it is known before the body is read, and in the body as `v`, so that a body that is kept
//! or shown without its headers still says what it is.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The newest version that this program speaks.
pub const VERSION: u32 = 1;
/// The header of requests and answers with the version of the exchange.
pub const VERSION_HEADER: &str = "waypost-exchange";
/// The header of answers with the site of the server.
pub const SITE_HEADER: &str = "waypost-site";
/// The header of requests with the site that they are meant for.
pub const FOR_HEADER: &str = "waypost-for";
/// Where the paths of the exchange begin.
pub const ROOT: &str = "/v1/sites/";

/// The field `v` of a message. It is written as [`VERSION`], and a newer one is not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            1..=VERSION => Ok(Self),
            other => {
                Err(de::Error::custom(format!("version {other} of the exchange; expected 1 to {VERSION}")))
            }
        }
    }
}

/// The version that a message claims in its field `v`, of a message that could not be read otherwise.
#[must_use]
pub fn claimed(body: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Claim {
        v: u32,
    }
    serde_json::from_slice(body).ok().map(|Claim { v }| v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_is_not_read() {
        assert_eq!(serde_json::to_string(&Version).unwrap(), "1");
        assert_eq!(serde_json::from_str::<Version>("1").unwrap(), Version);
        for wrong in ["0", "2", "4294967295", "-1", "\"1\"", "null"] {
            assert!(serde_json::from_str::<Version>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(claimed(br#"{"new":[],"v":7}"#), Some(7));
        assert_eq!((claimed(b"7"), claimed(b"{}"), claimed(b"{\"v\":-1}")), (None, None, None));
    }
}
