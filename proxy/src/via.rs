//! `Via` and `Max-Forwards`: how a request tells the gateways that it came through (RFC 9110 §7.6.2 and §7.6.3).

/// The lines of `Via` that this gateway adds to requests.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    to_1_0: Box<[u8]>,
    to_1_1: Box<[u8]>,
}

/// The version in which a message was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Http10,
    Http11,
}

impl Via {
    /// For a node of this name, which is written as the pseudonym of its host; `waypost` if it is not a token.
    pub(crate) fn new(node: &str) -> Self {
        let node = if crate::cookies::is_token(node.as_bytes()) { node } else { "waypost" };
        let line = |version: &str| format!("via: {version} {node}\r\n").into_bytes().into();
        Self { to_1_0: line("1.0"), to_1_1: line("1.1") }
    }

    /// The line for a message that was received in this version. It comes behind the lines of `Via` that the message has.
    pub(crate) const fn line(&self, received: Received) -> &[u8] {
        match received {
            Received::Http10 => &self.to_1_0,
            Received::Http11 => &self.to_1_1,
        }
    }
}

/// What `Max-Forwards` means for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaxForwards {
    /// Nothing: there is none, or the method is another, and the field is passed on like any other.
    Ignored,
    /// The gateway answers the request itself, as its last recipient.
    Answer,
    /// It is forwarded with this value instead.
    Forward(u32),
    /// It is not one number of digits: the request is refused with 400.
    Malformed,
}

impl MaxForwards {
    /// Reads the lines of the field. It counts for `TRACE` and `OPTIONS` only. A number that is larger than any chain of
    /// gateways is replaced by the largest that we know (§7.6.2: "the recipient's maximum supported value").
    pub(crate) fn of<'a>(method: &[u8], lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        if !matches!(method, b"OPTIONS" | b"TRACE") {
            return Self::Ignored;
        }
        let mut lines = lines.into_iter();
        let value = match (lines.next(), lines.next()) {
            (None, _) => return Self::Ignored,
            (Some(only), None) => only.trim_ascii(),
            _ => return Self::Malformed,
        };
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Self::Malformed;
        }
        let digit = |sum: u32, it: &u8| sum.saturating_mul(10).saturating_add(u32::from(it - b'0'));
        match value.iter().fold(0, digit) {
            0 => Self::Answer,
            left => Self::Forward(left - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn via_names_the_version_and_the_node() {
        let via = Via::new("gw-1");
        assert_eq!(via.line(Received::Http10), b"via: 1.0 gw-1\r\n");
        assert_eq!(via.line(Received::Http11), b"via: 1.1 gw-1\r\n");
        assert_eq!(Via::new("a b").line(Received::Http11), b"via: 1.1 waypost\r\n");
    }

    #[test]
    fn max_forwards_counts_for_options_and_trace() {
        let of = |method: &str, lines: &[&'static str]| {
            MaxForwards::of(method.as_bytes(), lines.iter().map(|it| it.as_bytes()))
        };
        for method in ["OPTIONS", "TRACE"] {
            assert_eq!(of(method, &["0"]), MaxForwards::Answer);
            assert_eq!(of(method, &["000"]), MaxForwards::Answer);
            assert_eq!(of(method, &["1"]), MaxForwards::Forward(0));
            assert_eq!(of(method, &["10"]), MaxForwards::Forward(9));
            assert_eq!(of(method, &[]), MaxForwards::Ignored);
            assert_eq!(of(method, &["99999999999999999999"]), MaxForwards::Forward(u32::MAX - 1));
            for lines in [&[""][..], &["-1"], &["1, 1"], &["+1"], &["1", "1"], &["0x1"]] {
                assert_eq!(of(method, lines), MaxForwards::Malformed, "{lines:?}");
            }
        }
        assert_eq!(of("GET", &["0"]), MaxForwards::Ignored);
        assert_eq!(of("options", &["0"]), MaxForwards::Ignored, "methods have case");
    }
}
