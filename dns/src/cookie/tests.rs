use proptest::prelude::*;

use super::*;

const A: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";
const B_OLD: &str = "dd3bdf9344b678b185a6f5cb60fca715";
const B_NEW: &str = "445536bcd2513298075a5d379663c962";

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn secrets(text: &str) -> Secrets {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const fn at(seconds: u64) -> Moment {
    Moment(seconds * 1000)
}

fn exchange(option: &str, from: &str, now: u64, with: &str) -> (Presented, Vec<u8>) {
    let (secrets, from) = (secrets(with), ip(from));
    let presented = read(&hex(option), from, at(now), &secrets);
    (presented, presented.reply(from, at(now), &secrets).unwrap().to_vec())
}

/// RFC 9018 appendix A.1.
#[test]
fn a_client_learns_a_cookie() {
    let (presented, reply) = exchange("2464c4abcf10c957", "198.51.100.100", 1_559_731_985, A);
    assert!(matches!(presented, Presented::Client(_)));
    assert_eq!(reply, hex("2464c4abcf10c957010000005cf79f111f8130c3eee29480"));
}

/// RFC 9018 appendix A.2: after 40 minutes the cookie holds and is renewed.
#[test]
fn a_client_learns_a_renewed_cookie() {
    let option = "2464c4abcf10c957010000005cf79f111f8130c3eee29480";
    let (presented, reply) = exchange(option, "198.51.100.100", 1_559_734_385, A);
    assert!(matches!(presented, Presented::Valid { renew: true, .. }));
    assert_eq!(reply, hex("2464c4abcf10c957010000005cf7a871d4a564a1442aca77"));
}

/// RFC 9018 appendix A.3: reserved bits are part of what is signed; renewed they are zero.
#[test]
fn reserved_bits_are_signed() {
    let option = "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5";
    let made = 0x5cf7_8f71;
    let presented = read(&hex(option), ip("203.0.113.203"), at(made), &secrets(A));
    assert!(matches!(presented, Presented::Valid { renew: false, .. }));
    let (_, reply) = exchange(option, "203.0.113.203", 1_559_734_700, A);
    assert_eq!(reply, hex("fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e"));
}

/// RFC 9018 appendix A.4: a cookie of the previous secret holds, and is replaced at once.
#[test]
fn a_rolled_over_secret_holds_on() {
    let option = "22681ab97d52c298010000005cf7c57926556bd0934c72f8";
    let from = "2001:db8:220:1:59de:d0f4:8769:82b8";
    let (presented, reply) = exchange(option, from, 0x5cf7_c609, &format!("{B_NEW}\n{B_OLD}\n"));
    assert!(matches!(presented, Presented::Valid { renew: true, .. }));
    assert_eq!(reply, hex("22681ab97d52c298010000005cf7c609a6bb79d16625507a"));
    let (presented, _) = exchange(option, from, 0x5cf7_c609, B_NEW);
    assert!(matches!(presented, Presented::Invalid(_)));
}

/// RFC 9018 §4.3: an hour back, five minutes ahead, renewed after half an hour.
#[test]
fn cookies_have_their_time() {
    let (with, from) = (secrets(A), ip("192.0.2.1"));
    let made = 1_700_000_000;
    let cookie = write([7; 8], from, at(made), &with);
    for (now, expected) in [
        (made - 301, None),
        (made - 300, Some(false)),
        (made, Some(false)),
        (made + 1800, Some(false)),
        (made + 1801, Some(true)),
        (made + 3600, Some(true)),
        (made + 3601, None),
    ] {
        let renew = match read(&cookie, from, at(now), &with) {
            Presented::Valid { renew, .. } => Some(renew),
            _ => None,
        };
        assert_eq!(renew, expected, "{now}");
    }
    let young = read(&cookie, from, at(made + 9), &with);
    assert_eq!(young.reply(from, at(made + 9), &with), Some(cookie), "a young one is repeated");
}

/// RFC 9018 §4.3: time is compared by serial number arithmetic, so 2106 is a year like any other.
#[test]
fn time_may_wrap() {
    let (with, from) = (secrets(A), ip("192.0.2.1"));
    let cookie = write([7; 8], from, at(0xffff_fff0), &with);
    assert!(read(&cookie, from, at(0x1_0000_0100), &with).is_valid());
    assert!(!read(&cookie, from, at(0x1_0001_0100), &with).is_valid());
}

/// RFC 7873 §5.2.2.
#[test]
fn impossible_lengths_are_malformed() {
    let with = secrets(A);
    for length in 0..64 {
        let presented = read(&vec![1; length], ip("192.0.2.1"), at(0), &with);
        match length {
            8 => assert!(matches!(presented, Presented::Client(_))),
            16..=40 => assert!(matches!(presented, Presented::Invalid(_)), "{length}"),
            _ => assert_eq!(presented, Presented::Malformed, "{length}"),
        }
    }
}

#[test]
fn secret_files_with_errors_are_refused() {
    let file = format!("{A}\n\n  {B_OLD} \n");
    assert_eq!(secrets(&file).also, Some(Secret::from_hex(B_OLD).unwrap()));
    for (bad, error) in [
        (String::new(), NotASecret::Empty),
        (A[1..].to_owned(), NotASecret::Malformed(1)),
        (format!("{A}\n\n{A}0\n"), NotASecret::Malformed(3)),
        (format!("+{}", &A[1..]), NotASecret::Malformed(1)),
        (format!("{A}\n{B_OLD}\n{B_NEW}"), NotASecret::TooMany),
        (format!("{A}\n{A}"), NotASecret::Same),
    ] {
        assert_eq!(bad.parse::<Secrets>(), Err(error), "{bad}");
    }
    assert_eq!(format!("{:?}", secrets(A).current), "Secret(hidden)");
}

#[test]
fn random_secrets_differ() {
    assert_ne!(Secrets::random().unwrap(), Secrets::random().unwrap());
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

proptest! {
    #[test]
    fn what_is_written_reads_as_valid_and_only_there(
        client: [u8; 8], from in any_ip(), other in any_ip(), now in 0_u64..1 << 40, flip in 0_usize..24,
    ) {
        let with = secrets(A);
        let mut cookie = write(client, from, at(now), &with);
        let young = Presented::Valid { cookie, renew: false };
        prop_assert_eq!(read(&cookie, from, at(now), &with), young);
        if other != from {
            prop_assert_eq!(read(&cookie, other, at(now), &with), Presented::Invalid(client));
        }
        cookie[flip] ^= 1;
        prop_assert!(!read(&cookie, from, at(now), &with).is_valid());
    }
}
