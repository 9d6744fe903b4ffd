//! Overrides: the orders of operators, which come before the results of probes.

use super::{
    check::{DAY, millis},
    name,
};
use crate::{
    Authority, Override, OverrideState, OverrideTarget,
    read::{Fields, Reader},
};

pub(super) fn over_ride(fields: &Fields<'_>) -> Option<Override> {
    let name = name(fields);
    let target = fields.required("target", "a site, a domain or both", |field| {
        let fields = field.fields()?;
        let site = fields.optional("site", |field| field.parse());
        let domain = fields.optional("domain", glob);
        if fields.get("site").is_none() && fields.get("domain").is_none() {
            field.error("names nothing", "a site, a domain or both");
        }
        Some(OverrideTarget { site, domain })
    });
    let state = fields.required_word("state");
    let owner = fields.required("owner", "who answers for it", |field| field.text(255));
    let reason = fields.required("reason", "why", |field| field.text(1_000));
    let moment = "a moment as in RFC 3339, such as 2026-12-01T04:00:00Z";
    let expires = fields.optional("expires", |field| field.parse_as(moment));
    let since = fields.optional("since", |field| field.parse_as(moment));
    let over = fields.optional("over", |field| field.span_within(millis(1_000)..=DAY));
    if let (Some(at), Some(state)) = (fields.get("over"), state)
        && state != OverrideState::Drain
    {
        at.error("means nothing in this state", "state: drain, or no over");
    }
    let authority = fields.or("authority", Authority::default(), |field| field.one_of());
    let force = fields.or("force", false, |field| field.boolean());
    let (owner, reason) = (owner?.to_owned(), reason?.to_owned());
    Some(Override {
        name: name?,
        target: target?,
        state: state?,
        owner,
        reason,
        expires,
        since,
        over,
        authority,
        force,
    })
}

/// A domain name in which `*` matches any run of characters.
fn glob(field: Reader<'_>) -> Option<String> {
    let text = field.text(253)?;
    let glob = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*');
    // Each star multiplies the ways to match.
    let few_stars = glob.bytes().filter(|b| *b == b'*').count() <= 4;
    if glob.is_empty() || !few_stars || !glob.bytes().all(fits) {
        field.wrong("a domain name or a glob with at most four *, such as *.gslb.example.com");
        return None;
    }
    Some(glob)
}
