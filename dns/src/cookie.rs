//! DNS cookies (RFC 7873) as every server that shares a secret makes and reads them (RFC 9018).
//!
//! A client that shows a server cookie of ours has received a packet at its address: it is no forged source, so
//! what protects others from reflected answers ([`rate`](crate::rate)) need not hold it back. Pure functions of
//! the option, the address, the time and the secrets; none allocates, so that every path can call them.

use std::{fmt, hash::Hasher as _, net::IpAddr, str::FromStr};

use data_encoding::HEXLOWER_PERMISSIVE;
use siphasher::sip::SipHasher24;
use store::model::Moment;

/// The option's number (RFC 7873 §4).
pub const OPTION: u16 = 10;

/// Octets of a client cookie (RFC 7873 §4).
const CLIENT: usize = 8;
/// Octets of a client cookie with a server cookie of RFC 9018 §4.
const WHOLE: usize = 24;
/// The version of RFC 9018 §4.1.
const VERSION: u8 = 1;
/// Seconds a cookie is good for (RFC 9018 §4.3).
const GOOD_FOR: i32 = 3600;
/// Seconds another server's clock may be ahead (RFC 9018 §4.3).
const AHEAD: i32 = 300;
/// Seconds after which a client gets a new one (RFC 9018 §4.3).
const RENEW_AFTER: i32 = 1800;

/// Client cookie and server cookie together: the data of the option in a reply.
pub type Cookie = [u8; WHOLE];

/// What server cookies are signed with; every node that answers at one address needs the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// The text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASecret {
    /// A line of the wrong form; lines count from 1.
    #[error("line {0} is no secret of 32 hexadecimal digits")]
    Malformed(usize),
    /// No line at all.
    #[error("it holds no secret")]
    Empty,
    /// More than a present and a previous one.
    #[error("it holds more than two secrets")]
    TooMany,
    /// Twice the same, which rolls nothing over.
    #[error("both secrets are the same")]
    Same,
}

impl Secret {
    /// A secret of these octets.
    #[must_use]
    pub const fn new(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// Reads 32 hexadecimal digits.
    fn from_hex(text: &str) -> Option<Self> {
        let octets = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        octets.try_into().ok().map(Self)
    }

    /// The hash of RFC 9018 §4.4 over the first 16 octets of a cookie and the client's address.
    fn hash(&self, signed: &[u8; 16], ip: IpAddr) -> [u8; 8] {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        // One buffer: the hash depends on the octets alone, and one call is the cheapest.
        let mut input = [0; 32];
        let (head, tail) = input.split_at_mut(16);
        head.copy_from_slice(signed);
        let length = match ip {
            IpAddr::V4(ip) => {
                tail[..4].copy_from_slice(&ip.octets());
                20
            }
            IpAddr::V6(ip) => {
                tail.copy_from_slice(&ip.octets());
                32
            }
        };
        hasher.write(&input[..length]);
        hasher.finish().to_le_bytes()
    }
}

/// The secret cookies are made with, and one that is taken as well while secrets are rolled over.
///
/// RFC 9018 §5: bring a new secret to every node as the second line, then exchange the lines, then, an hour
/// later, leave the old one out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secrets {
    current: Secret,
    also: Option<Secret>,
}

impl Secrets {
    /// One secret, or two while they are rolled over.
    #[must_use]
    pub const fn new(current: Secret, also: Option<Secret>) -> Self {
        Self { current, also }
    }

    /// A secret of this process alone, as good as the system's random numbers.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut octets = [0; 16];
        getrandom::fill(&mut octets)?;
        Ok(Self::new(Secret(octets), None))
    }

    /// True if the cookie was signed by one of them.
    fn signed(&self, signed: &[u8; 16], hash: [u8; 8], ip: IpAddr) -> Option<Signer> {
        if self.current.hash(signed, ip) == hash {
            return Some(Signer::Current);
        }
        self.also.filter(|also| also.hash(signed, ip) == hash).map(|_| Signer::Also)
    }
}

/// A file: 32 hexadecimal digits per line, the secret to sign with first.
impl FromStr for Secrets {
    type Err = NotASecret;

    fn from_str(text: &str) -> Result<Self, NotASecret> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let mut secrets =
            lines.map(|(at, line)| Secret::from_hex(line.trim()).ok_or(NotASecret::Malformed(at + 1)));
        let current = secrets.next().ok_or(NotASecret::Empty)??;
        let also = secrets.next().transpose()?;
        match secrets.next() {
            Some(_) => Err(NotASecret::TooMany),
            None if also == Some(current) => Err(NotASecret::Same),
            None => Ok(Self { current, also }),
        }
    }
}

/// Which of two secrets signed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signer {
    Current,
    Also,
}

/// The option as a query brought it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presented {
    /// It has no such option.
    #[default]
    None,
    /// The option has an impossible length, which gets FORMERR (RFC 7873 §5.2.2).
    Malformed,
    /// A client cookie: this client wants a server cookie.
    Client([u8; CLIENT]),
    /// One of ours, and it came from where it had been sent.
    Valid {
        /// The whole option.
        cookie: Cookie,
        /// It gets old, or the secret is rolled over: the client should have a new one.
        renew: bool,
    },
    /// A server cookie of another server or client, too old, or ahead of the time; treated as none.
    Invalid([u8; CLIENT]),
}

impl Presented {
    /// True if the source address is proven.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        matches!(self, Self::Valid { .. })
    }

    /// The option's data for the reply; `None` if the query brought no client cookie.
    #[must_use]
    pub fn reply(&self, ip: IpAddr, now: Moment, secrets: &Secrets) -> Option<Cookie> {
        match *self {
            Self::None | Self::Malformed => None,
            Self::Valid { cookie, renew: false } => Some(cookie),
            Self::Client(client) | Self::Invalid(client) => Some(write(client, ip, now, secrets)),
            Self::Valid { cookie, renew: true } => {
                let client = cookie.first_chunk().copied()?;
                Some(write(client, ip, now, secrets))
            }
        }
    }
}

/// Reads the option's data (RFC 7873 §5.2, RFC 9018 §4).
#[must_use]
pub fn read(option: &[u8], ip: IpAddr, now: Moment, secrets: &Secrets) -> Presented {
    let Some((client, server)) = option.split_first_chunk::<CLIENT>() else { return Presented::Malformed };
    match server.len() {
        0 => Presented::Client(*client),
        8..=32 => judge(option, ip, now, secrets).unwrap_or(Presented::Invalid(*client)),
        _ => Presented::Malformed,
    }
}

/// A server cookie, if it holds.
fn judge(option: &[u8], ip: IpAddr, now: Moment, secrets: &Secrets) -> Option<Presented> {
    let cookie = Cookie::try_from(option).ok()?;
    let (signed, hash) = cookie.split_first_chunk::<16>()?;
    let [_, _, _, _, _, _, _, _, version, _, _, _, time @ ..] = *signed;
    let age = seconds(now).wrapping_sub(u32::from_be_bytes(time)).cast_signed();
    if version != VERSION || !(-AHEAD..=GOOD_FOR).contains(&age) {
        return None;
    }
    // A guess of 64 bits per packet learns nothing from how long a comparison of one word takes.
    let signer = secrets.signed(signed, hash.try_into().ok()?, ip)?;
    Some(Presented::Valid { cookie, renew: age > RENEW_AFTER || signer == Signer::Also })
}

/// A cookie for this client (RFC 9018 §4).
#[must_use]
pub fn write(client: [u8; CLIENT], ip: IpAddr, now: Moment, secrets: &Secrets) -> Cookie {
    let mut signed = [0; 16];
    signed[..CLIENT].copy_from_slice(&client);
    signed[CLIENT] = VERSION;
    signed[12..].copy_from_slice(&seconds(now).to_be_bytes());
    let mut cookie = [0; WHOLE];
    cookie[..16].copy_from_slice(&signed);
    cookie[16..].copy_from_slice(&secrets.current.hash(&signed, ip));
    cookie
}

/// Seconds since 1970, wrapping: compared by serial number arithmetic (RFC 9018 §4.3, RFC 1982).
fn seconds(now: Moment) -> u32 {
    const WRAP: u64 = 1 << 32;
    u32::try_from(now.0 / 1000 % WRAP).unwrap_or_default()
}

#[cfg(test)]
mod tests;
