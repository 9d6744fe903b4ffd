//! The keys of `[control]` that are about other sites.

use store::model::{ControlUrl, SiteControl, read::Fields};

use super::{
    guard::token_to_send,
    settings::{Guard, Join},
    values::{authorities, path},
};
use crate::certificate::clients::ClientAuthorities;

/// Where a new site takes everything from.
pub(super) fn join(fields: &Fields<'_>) -> Option<Join> {
    let there = fields.get("join").filter(|it| !it.is_null());
    let urls = there.as_ref().and_then(|at| {
        let before = at.count();
        let urls = at.distinct(|it| it.parse::<ControlUrl>())?;
        let most = SiteControl::MAX_URLS;
        if at.count() == before && !(1..=most).contains(&urls.len()) {
            at.wrong(format_args!("a list of 1 to {most} URLs such as https://10.1.0.11:8580"));
        }
        Some(urls)
    });
    // Both are read when the site joins; what is wrong with them should be known before.
    let ca_file = fields.optional("join_ca_file", |it| authorities(&it).and_then(|_| path(&it)));
    let token = |it| token_to_send(&it).and_then(|_| path(&it));
    if there.is_none() {
        let _ = fields.optional("join_token_file", token);
        for key in ["join_ca_file", "join_token_file"] {
            if let Some(at) = fields.get(key).filter(|it| !it.is_null()) {
                at.error("is for a site that joins others", "`join = [\"URL\"]` beside it");
            }
        }
        return None;
    }
    let expected = "the file of this site's token, which is needed with `join`";
    let token_file = fields.required("join_token_file", expected, token);
    Some(Join { urls: urls?, ca_file, token_file: token_file? })
}

/// The authorities of the certificates of other sites' controls. With them, the listener asks its clients for one.
pub(super) fn peer_authorities(fields: &Fields<'_>, guard: &mut Guard) -> Option<ClientAuthorities> {
    let at = fields.get("peer_ca_file").filter(|it| !it.is_null())?;
    match &mut guard.tls {
        Some(files) => files.asks_clients = true,
        None if fields.get("tls").is_some() => {}
        None => at.error(
            "is for a listener with TLS, and there is no `tls`",
            "`tls = { certificate = \"…\", key = \"…\" }` beside it",
        ),
    }
    let pem = authorities(&at)?;
    let made = ClientAuthorities::new(&pem);
    made.map_err(|error| at.error(error, "a file of certificates in PEM (BEGIN CERTIFICATE)")).ok()
}
