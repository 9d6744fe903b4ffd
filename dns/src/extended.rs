//! Extended errors (RFC 8914): why an answer is what it is. They are for operators; programs must not act on them.

/// An extended error: a number of the registry and a few words (RFC 8914 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// The number (RFC 8914 §4).
    pub code: u16,
    /// Further text; short, because it makes replies longer.
    pub text: &'static str,
}

impl ExtendedError {
    /// An answer from before its source stopped answering (RFC 8914 §4.4).
    pub const STALE: Self = Self { code: 3, text: "" };
    /// This node has no configuration yet (RFC 8914 §4.15).
    pub const NOT_READY: Self = Self { code: 14, text: "no configuration yet" };
    /// The client may not ask about this zone (RFC 8914 §4.19).
    pub const PROHIBITED: Self = Self { code: 18, text: "" };
    /// The name lies in none of our zones (RFC 8914 §4.21).
    pub const NOT_AUTHORITATIVE: Self = Self { code: 20, text: "" };

    /// Something we do not serve (RFC 8914 §4.22).
    #[must_use]
    pub const fn not_supported(text: &'static str) -> Self {
        Self { code: 21, text }
    }

    /// An error that has no number of its own (RFC 8914 §4.1).
    #[must_use]
    pub const fn other(text: &'static str) -> Self {
        Self { code: 0, text }
    }

    /// The option's data.
    pub(crate) fn data(self) -> impl Iterator<Item = u8> {
        self.code.to_be_bytes().into_iter().chain(self.text.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_the_number_and_the_text() {
        assert_eq!(ExtendedError::PROHIBITED.data().collect::<Vec<_>>(), [0, 18]);
        assert_eq!(ExtendedError::other("ab").data().collect::<Vec<_>>(), [0, 0, b'a', b'b']);
    }
}
