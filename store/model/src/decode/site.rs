//! How a site's control is reached, and how its gateways reach other sites.

use std::{collections::BTreeMap, path::PathBuf};

use super::some;
use crate::{ControlUrl, Name, Reach, SiteControl, read::Reader};

const A_PATH: &str = "the path of a file, such as /etc/waypost/site.token or site.token";
/// The longest path, in octets.
const MAX_PATH: usize = 4096;

pub(super) fn control(field: &Reader<'_>) -> Option<SiteControl> {
    let fields = field.fields()?;
    let urls = fields.required("urls", "the URLs of the controls of this site", |field| {
        let urls = some(&field, |item| item.parse::<ControlUrl>())?;
        let most = SiteControl::MAX_URLS;
        if urls.len() > most {
            field.error(format!("{} URLs", urls.len()), format!("at most {most} URLs"));
        }
        Some(urls)
    });
    let ca_file = fields.optional("ca_file", |field| path(&field));
    let token_file = fields.required("token_file", A_PATH, |field| path(&field));
    Some(SiteControl { urls: urls?, ca_file, token_file: token_file? })
}

fn path(field: &Reader<'_>) -> Option<PathBuf> {
    let text = field.text(MAX_PATH)?;
    if text.ends_with('/') {
        field.wrong(A_PATH);
        return None;
    }
    Some(PathBuf::from(text))
}

pub(super) fn reach(field: &Reader<'_>) -> Option<BTreeMap<Name, Reach>> {
    let mut reach = BTreeMap::new();
    for (key, at) in field.entries()? {
        match key.parse::<Name>() {
            Ok(site) => reach.extend(at.one_of().map(|how| (site, how))),
            Err(expected) => at.error(format!("{key:?} is not {expected}"), expected.to_string()),
        }
    }
    Some(reach)
}
