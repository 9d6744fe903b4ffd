//! Values on the command line that clap does not know how to read.

use store::model::{Kind, Name, Role};

use crate::api::Enough;

pub(super) fn parse_name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error: store::model::NameError| format!("expected {error}"))
}

pub(super) fn parse_kind(text: &str) -> Result<Kind, String> {
    let all: Vec<String> = Kind::ALL.iter().map(|it| it.as_str().to_lowercase()).collect();
    Kind::parse(text).ok_or_else(|| format!("expected one of {}", all.join(", ")))
}

pub(super) fn parse_role(text: &str) -> Result<Role, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "expected operator, automation, vantage, registrar, node, control or reader".to_owned())
}

/// Checks that a text is a URL that requests can be sent to.
pub(in crate::cli) fn parse_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text);
    let fits = url.is_ok_and(|it| matches!(it.scheme(), "http" | "https") && it.has_host());
    if fits { Ok(text.to_owned()) } else { Err("expected a URL such as http://127.0.0.1:8580".to_owned()) }
}

/// How many sites to wait for.
pub(in crate::cli) fn parse_enough(text: &str) -> Result<Enough, String> {
    match text {
        "all" => Ok(Enough::All),
        "quorum" => Ok(Enough::Quorum),
        _ => Err("expected all or quorum".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_may_be_plural() {
        assert_eq!(parse_kind("sites"), Ok(Kind::Site));
        assert!(parse_kind("nonsense").unwrap_err().contains("site, "));
    }
}
