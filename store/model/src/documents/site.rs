//! Sites: where they are, how their controls are reached, and how their gateways reach one another's instances.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::{Host, Url};

use super::super::{Name, words::words};

/// A data centre.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its name.
    pub name: Name,
    /// Where it is; decides which site is the next nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// The networks of clients that are nearest to this site, regardless of geography; the longest prefix of all sites wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// The region it lies in: a name that vantages use too. Its clients are those of the sites in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Name>,
    /// How the controls of other sites reach this site's; absent: the site has no control of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<SiteControl>,
    /// How this site's gateways reach the instances of other sites; see [`Site::reach_to`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reach: BTreeMap<Name, Reach>,
}

impl Site {
    /// How this site's gateways reach the instances of another site.
    #[must_use]
    pub fn reach_to(&self, other: &Name) -> Reach {
        self.reach.get(other).copied().unwrap_or_default()
    }
}

/// A place on Earth, in degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// -90 to 90.
    pub lat: f64,
    /// -180 to 180.
    pub lon: f64,
}

/// How the controls of other sites reach the control of a site. The files are those of the machine that calls; a relative
/// path begins at the folder of the configuration file of the control that calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SiteControl {
    /// Where it listens, one for each of its controls; 1 to [`SiteControl::MAX_URLS`].
    pub urls: Vec<ControlUrl>,
    /// The authorities of its certificates, in PEM; absent: those of the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The file of the token that a caller sends: that of the caller's own site.
    pub token_file: PathBuf,
}

impl SiteControl {
    /// The most URLs of one site.
    pub const MAX_URLS: usize = 8;
}

words! {
    /// How gateways of one site reach the instances of another.
    #[derive(Default)]
    pub enum Reach {
        /// They connect to the instances themselves.
        #[default]
        "direct" Direct,
        /// They forward to the gateways of the other site.
        "by_gateway" ByGateway,
        /// They do not forward there.
        "none" Never,
    }
}

words! {
    /// What the drain of an instance does about a site that does not answer.
    #[derive(Default)]
    pub enum DarkSite {
        /// It waits until the site answers.
        #[default]
        "hold" Hold,
        /// It goes on without the site once that has been silent for the lease, and records it as unproven.
        "unproven" Unproven,
    }
}

/// The base URL of a control: scheme, host and port, without a path. Plain HTTP only to a loopback address. The text is
/// normalized, so that two spellings of one URL are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControlUrl(Arc<str>);

/// What a [`ControlUrl`] should have looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlUrlError {
    /// No URL of a control at all.
    #[error("a URL such as https://10.1.0.11:8580, without a path")]
    Form,
    /// Plain HTTP off loopback.
    #[error(
        "a URL that begins with https://; http:// is only for a loopback address such as http://127.0.0.1:8580"
    )]
    Plain,
}

impl ControlUrl {
    /// The longest text, in octets.
    pub const MAX: usize = 512;

    /// The text, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if the connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }
}

impl FromStr for ControlUrl {
    type Err = ControlUrlError;

    fn from_str(text: &str) -> Result<Self, ControlUrlError> {
        if text.len() > Self::MAX {
            return Err(ControlUrlError::Form);
        }
        let url = Url::parse(text).map_err(|_| ControlUrlError::Form)?;
        let is_loopback = match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => return Err(ControlUrlError::Form),
        };
        let is_bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && url.port_or_known_default() != Some(0);
        match url.scheme() {
            "https" | "http" if !is_bare => Err(ControlUrlError::Form),
            "http" if !is_loopback => Err(ControlUrlError::Plain),
            "https" | "http" => Ok(Self(url.as_str().trim_end_matches('/').into())),
            _ => Err(ControlUrlError::Form),
        }
    }
}

impl fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ControlUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ControlUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_a_control_is_https_unless_it_stays_on_the_machine() {
        for (text, normal) in [
            ("https://10.1.0.11:8580", "https://10.1.0.11:8580"),
            ("https://10.1.0.11:8580/", "https://10.1.0.11:8580"),
            ("HTTPS://Control.Example.com:443", "https://control.example.com"),
            ("http://127.0.0.1:8580", "http://127.0.0.1:8580"),
            ("http://localhost:1", "http://localhost:1"),
            ("http://[::1]:8580", "http://[::1]:8580"),
            ("https://[2001:db8::1]:8580", "https://[2001:db8::1]:8580"),
        ] {
            let url: ControlUrl = text.parse().unwrap();
            assert_eq!(url.as_str(), normal);
            assert_eq!(url.as_str().parse(), Ok(url));
        }
        for plain in ["http://10.1.0.11:8580", "http://control.example.com", "http://[2001:db8::1]"] {
            assert_eq!(plain.parse::<ControlUrl>(), Err(ControlUrlError::Plain), "{plain}");
        }
        let long = format!("https://{}", "a".repeat(ControlUrl::MAX));
        for wrong in [
            "",
            "bj",
            "10.1.0.11:8580",
            "ftp://10.1.0.11",
            "https://",
            "https://10.1.0.11/v1",
            "https://10.1.0.11?a=b",
            "https://10.1.0.11#a",
            "https://me:secret@10.1.0.11",
            "https://10.1.0.11:0",
            "https://10.1.0.11:65536",
            &long,
        ] {
            assert_eq!(wrong.parse::<ControlUrl>(), Err(ControlUrlError::Form), "{wrong}");
        }
    }

    #[test]
    fn a_site_that_is_not_named_is_reached_directly() {
        let names: [Name; 2] = ["sh", "gz"].map(|it| it.parse().unwrap());
        let site: Site = serde_json::from_str(r#"{"name":"bj","reach":{"sh":"by_gateway"}}"#).unwrap();
        assert_eq!(names.map(|it| site.reach_to(&it)), [Reach::ByGateway, Reach::Direct]);
    }
}
