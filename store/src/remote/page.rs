//! The messages of the exchange: pages of what a site tells, and the cursor with which the next one is requested.
//!
//! A page is taken as a whole or not at all, so everything in it is checked first.

use serde::{Deserialize, Serialize};

use super::told::{Change, Gateways, fault_of_gateways};

/// The maximum size of a page, in bytes of JSON. A page has at least one change, and none is larger than this.
pub const MAX_PAGE: usize = 256 * 1024;
/// The maximum number of changes in a page.
pub(super) const MAX_CHANGES: usize = 4096;
/// The maximum length of the text that identifies a teller's process.
const MAX_BOOT: usize = 128;

/// How far a reader has read what a site tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The process that told it. Another one has numbers of its own.
    pub boot: String,
    /// The number of the last change.
    pub number: u64,
    /// Within the whole: the last service. The changes after `number` follow after the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A part of what a site tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Version of the form.
    pub v: u32,
    /// The cursor that it continues; absent on the first page of the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Cursor>,
    /// The cursor with which the next page is requested.
    pub next: Cursor,
    /// True if the changes are a part of the whole: what no page of it has is not told any longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// True if there is more to be had at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// The changes, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Where the site's gateways listen.
    #[serde(default, skip_serializing_if = "Gateways::is_empty")]
    pub gateways: Gateways,
}

/// Why a page is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// A newer version of this program wrote it.
    #[error("a page of version {0}: expected at most {max}, so upgrade this site's control", max = Page::VERSION)]
    Newer(u32),
    /// Something in it is wrong.
    #[error("a page that cannot be used: {0}")]
    Unusable(String),
}

impl Page {
    /// The version that this program writes.
    pub const VERSION: u32 = 1;

    /// Reads and checks a page from outside.
    ///
    /// # Errors
    /// When it is too large, malformed, of a newer version, or breaks a limit; the reason names what.
    pub fn read(text: &[u8]) -> Result<Self, PageError> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        if text.len() > MAX_PAGE {
            let reason = format!("it has {} bytes, expected at most {MAX_PAGE}", text.len());
            return Err(PageError::Unusable(reason));
        }
        let unusable = |error: serde_json::Error| PageError::Unusable(error.to_string());
        let Version { v } = serde_json::from_slice(text).map_err(unusable)?;
        if v > Self::VERSION {
            return Err(PageError::Newer(v));
        }
        let page: Self = serde_json::from_slice(text).map_err(unusable)?;
        page.check()?;
        Ok(page)
    }

    /// Checks everything in the page.
    ///
    /// # Errors
    /// As [`Page::read`].
    pub fn check(&self) -> Result<(), PageError> {
        if self.v > Self::VERSION {
            return Err(PageError::Newer(self.v));
        }
        match self.fault() {
            Some(fault) => Err(PageError::Unusable(fault)),
            None => Ok(()),
        }
    }

    fn fault(&self) -> Option<String> {
        if self.changes.len() > MAX_CHANGES {
            return Some(format!("it has {} changes, expected at most {MAX_CHANGES}", self.changes.len()));
        }
        if self.next.boot.is_empty() || self.next.boot.len() > MAX_BOOT {
            return Some(format!("the name of its process has {} bytes", self.next.boot.len()));
        }
        let from = self.from.as_ref();
        if from.is_some_and(|it| it.boot != self.next.boot || it.number > self.next.number) {
            return Some("its cursor goes back".to_owned());
        }
        if self.whole {
            let first = from.and_then(|it| it.after.as_deref());
            let services: Vec<_> =
                first.into_iter().chain(self.changes.iter().map(|it| it.service.as_str())).collect();
            if !services.is_sorted_by(|a, b| a < b) {
                return Some("the services of the whole are not in order".to_owned());
            }
            if self.next.after.as_deref().is_some_and(|it| services.last() != Some(&it)) {
                return Some("its cursor is not at its last service".to_owned());
            }
        } else if self.next.after.is_some() || from.is_none_or(|it| it.after.is_some()) {
            return Some("it has changes within the whole".to_owned());
        }
        self.changes.iter().find_map(Change::fault).or_else(|| fault_of_gateways(&self.gateways))
    }
}
