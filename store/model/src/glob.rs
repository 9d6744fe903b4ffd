//! Globs, as overrides and tokens use them to cover several names.

/// Whether a glob covers a name; `*` matches any run of characters.
#[must_use]
pub fn matches(glob: &str, name: &str) -> bool {
    let Some((head, tail)) = glob.split_once('*') else { return glob == name };
    let Some(rest) = name.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(tail, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_cover_names() {
        for (glob, name, covers) in [
            ("*", "gw.example.com", true),
            ("gw.*", "gw.example.com", true),
            ("*.example.com", "gw.example.com", true),
            ("g*.ex*com", "gw.example.com", true),
            ("gw.example.com", "gw.example.com", true),
            ("gw.example.co", "gw.example.com", false),
            ("*.org", "gw.example.com", false),
            ("", "gw.example.com", false),
        ] {
            assert_eq!(matches(glob, name), covers, "{glob} {name}");
        }
    }
}
