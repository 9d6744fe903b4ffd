//! The parameters of service bindings (RFC 9460 §2.1, appendix A).

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Unfit, Word, words::unescaped};

const KEYS: [&str; 9] =
    ["mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath", "ohttp"];

/// Parameters by key, as they come.
#[derive(Debug, Default)]
pub(super) struct Params(BTreeMap<u16, Vec<u8>>);

impl Params {
    /// Takes in one word: `key` or `key=value`, the value perhaps in quotes.
    pub(super) fn add(&mut self, word: &Word<'_>) -> Result<(), Unfit> {
        let (name, value) = match word.text.iter().position(|octet| *octet == b'=') {
            Some(at) => (word.text.get(..at), word.text.get(at + 1..)),
            None => (Some(word.text), None),
        };
        let unknown = || Unfit::new(word, format!("a parameter: {}, or keyN=…", KEYS.join(", ")));
        let key = name.and_then(key).ok_or_else(unknown)?;
        let octets = octets(key, value.map(unquoted)).ok_or_else(|| Unfit::new(word, form(key)))?;
        match self.0.insert(key, octets) {
            None => Ok(()),
            Some(_) => Err(Unfit {
                problem: format!("{:?} gives a parameter for the second time", word.shown()),
                expected: "each once".to_owned(),
            }),
        }
    }

    /// All of them in ascending order; those that are mandatory must be there (RFC 9460 §8).
    pub(super) fn octets(self) -> Result<Vec<u8>, Unfit> {
        let wrong = |problem: &str, expected: &str| {
            Err(Unfit { problem: problem.to_owned(), expected: expected.to_owned() })
        };
        let mandatory = self.0.get(&0).map(Vec::as_slice).unwrap_or_default();
        let listed =
            mandatory.chunks_exact(2).filter_map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?)));
        if !listed.into_iter().all(|key| key != 0 && self.0.contains_key(&key)) {
            return wrong("a mandatory parameter is not there", "each key of `mandatory` as a parameter");
        }
        if self.0.contains_key(&2) && !self.0.contains_key(&1) {
            return wrong("no-default-alpn without alpn", "alpn=… beside it");
        }
        let mut out = Vec::new();
        for (key, value) in self.0 {
            let Ok(octets) = u16::try_from(value.len()) else {
                return wrong("a parameter is too long", "at most 65535 octets");
            };
            out.extend(key.to_be_bytes());
            out.extend(octets.to_be_bytes());
            out.extend(value);
        }
        Ok(out)
    }
}

/// What a parameter is called.
pub(super) fn name(key: u16) -> String {
    KEYS.get(usize::from(key)).map_or_else(|| format!("key{key}"), |name| (*name).to_owned())
}

fn key(name: &[u8]) -> Option<u16> {
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    let known = KEYS.iter().position(|it| *it == name).and_then(|at| u16::try_from(at).ok());
    known.or_else(|| {
        let digits = name.strip_prefix("key")?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(value)
}

const fn form(key: u16) -> &'static str {
    match key {
        0 => "mandatory=alpn,port, each once",
        1 => "alpn=h2,h3",
        2 => "no-default-alpn without a value",
        3 => "port=8443",
        4 => "ipv4hint=192.0.2.1,192.0.2.2",
        5 => "ech= and base64",
        6 => "ipv6hint=2001:db8::1,2001:db8::2",
        7 => "dohpath=/dns-query{?dns}",
        8 => "ohttp without a value",
        _ => "keyN=text",
    }
}

fn octets(key: u16, value: Option<&[u8]>) -> Option<Vec<u8>> {
    let Some(value) = value else { return matches!(key, 2 | 8 | 9..).then(Vec::new) };
    let plain = unescaped(value)?;
    let text = || std::str::from_utf8(&plain).ok().filter(|text| !text.is_empty());
    match key {
        0 => mandatory(text()?),
        1 => {
            let ids = list(&plain)?;
            let counted = ids.into_iter().map(|id| Some([&[u8::try_from(id.len()).ok()?], &*id].concat()));
            counted.collect::<Option<Vec<_>>>().map(|ids| ids.concat())
        }
        2 | 8 => plain.is_empty().then_some(plain),
        3 => Some(text()?.parse::<u16>().ok()?.to_be_bytes().to_vec()),
        4 => text()?
            .split(',')
            .map(|ip| Some(ip.parse::<Ipv4Addr>().ok()?.octets()))
            .collect::<Option<Vec<_>>>()
            .map(|it| it.concat()),
        5 => STANDARD.decode(&plain).ok(),
        6 => text()?
            .split(',')
            .map(|ip| Some(ip.parse::<Ipv6Addr>().ok()?.octets()))
            .collect::<Option<Vec<_>>>()
            .map(|it| it.concat()),
        7 => text().filter(|it| it.contains("{?dns}")).map(|it| it.as_bytes().to_vec()),
        _ => Some(plain),
    }
}

fn mandatory(text: &str) -> Option<Vec<u8>> {
    let mut keys: Vec<u16> = text.split(',').map(|name| key(name.as_bytes())).collect::<Option<_>>()?;
    let written = keys.len();
    keys.sort_unstable();
    keys.dedup();
    (keys.len() == written).then(|| keys.into_iter().flat_map(u16::to_be_bytes).collect())
}

/// Values parted by commas, where `\,` is a comma and `\\` a backslash inside one (RFC 9460 appendix A.1).
fn list(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut items = vec![Vec::new()];
    let mut rest = text.iter();
    while let Some(octet) = rest.next() {
        let octet = match octet {
            b',' => {
                items.push(Vec::new());
                continue;
            }
            b'\\' => rest.next().filter(|next| matches!(next, b',' | b'\\'))?,
            plain => plain,
        };
        items.last_mut()?.push(*octet);
    }
    items.iter().all(|item| !item.is_empty()).then_some(items)
}
