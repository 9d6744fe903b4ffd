//! A corpus of hostile requests: each is refused, or forwarded as exactly one request whose octets at the instance are canonical.
//!
//! The cases are text, in `hostile/*.txt`, because `tests/gateway/hostile` reads them, too. A case is
//!
//! ```text
//! === NAME
//! rfc SECTION
//! expect OUTCOME [STATUS,STATUS...]
//! PREDICATE
//! ---
//! the lines of the request
//! ```
//!
//! Each line of the request stands for itself and CRLF; one that ends in `\c` has no CRLF. `\r`, `\n`, `\t`, `\0`, `\s` (a
//! blank), `\\` and `\xHH` stand for octets, and `\{N*TEXT}` for N times the text.
//!
//! Outcomes: `forward` (answered with 200, one request at the instance), `refuse` (one of the statuses, nothing at the
//! instance, the connection closed: a request that follows at once is not served), `refuse-open` and `answer` (the same, but the
//! connection may stay), `either` (forwarded as with `forward`, or refused with one of the statuses). Predicates are of the first
//! request at the instance: `requests N`, `method M`, `target T`, `target-either T T`, `body B`, `field NAME: VALUE`,
//! `has NAME`, `no NAME` and `no-head NAME` (no such field in the head), `no-head-line LINE`, `no-trailer NAME`, `lacks TEXT`.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{client::Client, instances::Instance, world::World};

const CORPUS: &[&str] = &[
    include_str!("hostile/chunks.txt"),
    include_str!("hostile/fields.txt"),
    include_str!("hostile/framing.txt"),
    include_str!("hostile/hop-by-hop.txt"),
    include_str!("hostile/host.txt"),
    include_str!("hostile/request-line.txt"),
    include_str!("hostile/target.txt"),
];

/// Sent after a request that is to be refused, in the same write.
const FOLLOWING: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: web.example.com\r\n\r\n";

#[derive(Default)]
struct Case {
    name: &'static str,
    rfc: &'static str,
    outcome: &'static str,
    statuses: Vec<u16>,
    predicates: Vec<(&'static str, &'static str)>,
    data: Vec<u8>,
}

impl Case {
    /// How many requests are answered with 200 and reach the instance.
    fn requests(&self) -> usize {
        let said = self.predicates.iter().find(|(word, _)| *word == "requests");
        said.map_or_else(
            || usize::from(matches!(self.outcome, "forward" | "either")),
            |(_, count)| count.parse().unwrap(),
        )
    }
}

fn corpus() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for file in CORPUS {
        let mut in_request = false;
        for line in file.lines() {
            if let Some(name) = line.strip_prefix("=== ") {
                cases.push(Case { name, ..Case::default() });
                in_request = false;
                continue;
            }
            let case = cases.last_mut().unwrap();
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                _ if in_request => match line.strip_suffix("\\c") {
                    Some(line) => unescape(line, &mut case.data),
                    None => {
                        unescape(line, &mut case.data);
                        case.data.extend(b"\r\n");
                    }
                },
                "---" => in_request = true,
                "rfc" => case.rfc = rest,
                "expect" => {
                    let (outcome, statuses) = rest.split_once(' ').unwrap_or((rest, ""));
                    case.outcome = outcome;
                    case.statuses = statuses
                        .split(',')
                        .filter(|it| !it.is_empty())
                        .map(|it| it.parse().unwrap())
                        .collect();
                }
                _ => case.predicates.push((word, rest)),
            }
        }
    }
    cases
}

/// Appends the octets that a text stands for.
fn unescape(text: &str, into: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        into.extend(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let (word, after) = rest.split_at(1);
        rest = after;
        match word {
            "r" => into.push(b'\r'),
            "n" => into.push(b'\n'),
            "t" => into.push(b'\t'),
            "0" => into.push(0),
            "s" => into.push(b' '),
            "\\" => into.push(b'\\'),
            "x" => {
                into.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            "{" => {
                let end = end_of_group(rest);
                let (count, unit) = rest[..end].split_once('*').unwrap();
                for _ in 0..count.parse::<usize>().unwrap() {
                    unescape(unit, into);
                }
                rest = &rest[end + 1..];
            }
            _ => panic!("no escape \\{word}"),
        }
    }
    into.extend(rest.as_bytes());
}

/// Where the brace is that closes the group whose beginning was read.
fn end_of_group(text: &str) -> usize {
    let (mut depth, mut escaped) = (1, false);
    for (at, octet) in text.bytes().enumerate() {
        match octet {
            _ if escaped => {
                depth += usize::from(octet == b'{');
                escaped = false;
            }
            b'\\' => escaped = true,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("an open group: {text}")
}

/// A request as the instance got it, in octets.
#[derive(Clone, Debug, Default)]
struct Seen {
    head: Vec<u8>,
    body: Vec<u8>,
    trailers: Vec<u8>,
}

#[derive(Default)]
struct Record {
    seen: Vec<Seen>,
    faults: Vec<String>,
}

/// An instance that keeps what it gets, answers each whole request, and takes nothing that is not strictly one.
async fn strict(record: &Arc<Mutex<Record>>) -> Instance {
    let record = Arc::clone(record);
    let serve = move |stream, _| {
        let record = Arc::clone(&record);
        async move {
            let mut peer = Peer { stream, unread: Vec::new() };
            while let Some(read) = peer.request().await {
                match read {
                    Ok(seen) if seen.head.starts_with(b"GET /sentinel ") => {}
                    Ok(seen) => record.lock().unwrap().seen.push(seen),
                    Err(fault) => return record.lock().unwrap().faults.push(fault),
                }
                if peer.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
            }
        }
    };
    Instance::scripted("web-1", serve).await
}

struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Peer {
    /// The next request; nothing when the connection ends before it is whole.
    async fn request(&mut self) -> Option<Result<Seen, String>> {
        let head = self.until(b"\r\n\r\n").await?;
        let mut seen = Seen { head, ..Seen::default() };
        if let Some(fault) = what_is_wrong(&seen.head) {
            return Some(Err(fault));
        }
        if let Some(length) = fields(&seen.head, "content-length").first() {
            let length = std::str::from_utf8(length).unwrap().parse().unwrap();
            seen.body = self.exactly(length).await?;
        } else if !fields(&seen.head, "transfer-encoding").is_empty() {
            loop {
                let size = self.until(b"\r\n").await?;
                let digits = size.iter().all(u8::is_ascii_hexdigit) && (1..=16).contains(&size.len());
                if !digits {
                    return Some(Err(format!("a chunk's size {:?}", size.escape_ascii().to_string())));
                }
                let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap(), 16).unwrap();
                if size == 0 {
                    break;
                }
                seen.body.extend(self.exactly(size).await?);
                if self.exactly(2).await? != b"\r\n" {
                    return Some(Err("a chunk without its end".to_owned()));
                }
            }
            loop {
                let line = self.until(b"\r\n").await?;
                if line.is_empty() {
                    break;
                }
                seen.trailers.extend(line);
                seen.trailers.extend(b"\r\n");
            }
        }
        Some(Ok(seen))
    }

    async fn more(&mut self) -> Option<()> {
        matches!(self.stream.read_buf(&mut self.unread).await, Ok(1..)).then_some(())
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|it| it == end) {
                let mut found: Vec<u8> = self.unread.drain(..at + end.len()).collect();
                found.truncate(at);
                return Some(found);
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            self.more().await?;
        }
        Some(self.unread.drain(..length).collect())
    }
}

fn lines(head: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = head;
    while let Some(at) = rest.windows(2).position(|it| it == b"\r\n") {
        found.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    found.push(rest);
    found
}

/// The values of a field, without blanks around them.
fn fields<'a>(head: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let split = |line: &'a [u8]| {
        let at = line.iter().position(|it| *it == b':')?;
        line[..at].eq_ignore_ascii_case(name.as_bytes()).then(|| line[at + 1..].trim_ascii())
    };
    lines(head).into_iter().skip(1).filter_map(split).collect()
}

fn is_token(text: &[u8]) -> bool {
    let token = |it: &u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(it);
    !text.is_empty() && text.iter().all(token)
}

/// What is not canonical in a head that the gateway wrote.
fn what_is_wrong(head: &[u8]) -> Option<String> {
    let shown = |what: &str, line: &[u8]| Some(format!("{what}: {:?}", line.escape_ascii().to_string()));
    let lines = lines(head);
    if let Some(line) = lines.iter().find(|line| line.iter().any(|it| b"\r\n\0".contains(it))) {
        return shown("a line with CR, LF or NUL", line);
    }
    let words: Vec<&[u8]> = lines[0].split(|it| *it == b' ').collect();
    let good = words.len() == 3
        && is_token(words[0])
        && !words[1].is_empty()
        && words[1].iter().all(u8::is_ascii_graphic)
        && words[2] == b"HTTP/1.1";
    if !good {
        return shown("the request line", lines[0]);
    }
    let named = |line: &&&[u8]| {
        let at = line.iter().position(|it| *it == b':');
        at.is_none_or(|at| !is_token(&line[..at]))
    };
    if let Some(line) = lines[1..].iter().find(named) {
        return shown("a field", line);
    }
    let (lengths, codings) = (fields(head, "content-length"), fields(head, "transfer-encoding"));
    let counts = (fields(head, "host").len(), lengths.len() + codings.len());
    if counts.0 != 1 || counts.1 > 1 {
        return Some(format!("{} Host fields, {} of framing", counts.0, counts.1));
    }
    let number = |it: &[u8]| !it.is_empty() && it.iter().all(u8::is_ascii_digit);
    if lengths.iter().any(|it| !number(it)) || codings.iter().any(|it| *it != b"chunked") {
        return Some(format!("{lengths:?} {codings:?}"));
    }
    None
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    let (text, part) = (text.to_ascii_lowercase(), part.to_ascii_lowercase());
    text.windows(part.len()).any(|it| it == part)
}

fn is_met(predicate: &str, text: &str, seen: &Seen) -> bool {
    let lines = lines(&seen.head);
    let mut words = lines[0].split(|it| *it == b' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let mut wanted = Vec::new();
    unescape(text, &mut wanted);
    match predicate {
        "requests" => true,
        "method" => method == wanted,
        "target" => target == wanted,
        "target-either" => wanted.split(|it| *it == b' ').any(|it| it == target),
        "body" => seen.body == wanted,
        "field" => {
            let (name, value) = text.split_once(':').unwrap();
            let mut wanted = Vec::new();
            unescape(value.trim(), &mut wanted);
            fields(&seen.head, name).contains(&wanted.as_slice())
        }
        "has" => !fields(&seen.head, text).is_empty(),
        "no" | "no-head" => fields(&seen.head, text).is_empty(),
        "no-trailer" => {
            // A line before them, as a head has.
            let trailers = [b"\r\n", seen.trailers.as_slice()].concat();
            fields(&trailers, text).is_empty()
        }
        "no-head-line" => !lines.iter().any(|line| line.eq_ignore_ascii_case(&wanted)),
        "lacks" => {
            !(contains(&seen.head, &wanted) || text.contains(' ') && contains(&seen.trailers, &wanted))
        }
        _ => panic!("no predicate {predicate}"),
    }
}

/// Sends a case; says what is wrong.
async fn tried(case: &Case, world: &World, record: &Mutex<Record>) -> Result<(), String> {
    *record.lock().unwrap() = Record::default();
    let follows = case.outcome == "refuse";
    let mut client = world.client().await;
    let mut data = case.data.clone();
    if follows {
        data.extend(FOLLOWING);
    }
    // It may be refused before all of it is written.
    let _ = tokio::time::timeout(Duration::from_secs(5), client.stream.write_all(&data)).await;
    let statuses = statuses(case, &mut client).await?;
    let ended = !follows || client.is_closed().await;
    drop(client);
    let (status, _) = world.get("/sentinel").await;
    if status != 200 {
        return Err(format!("afterwards an honest request got {status}"));
    }
    let Record { seen, faults } = std::mem::take(&mut *record.lock().unwrap());
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    let said = || {
        let heads: Vec<_> = seen.iter().map(|it| it.head.escape_ascii().to_string()).collect();
        format!("answers {statuses:?}, at the instance {heads:.300?}")
    };
    if seen.iter().any(|it| it.head.starts_with(b"GET /smuggled ")) {
        return Err(format!("what follows it was served, too; {}", said()));
    }
    let forwarded = case.outcome == "forward" || case.outcome == "either" && statuses.last() == Some(&200);
    let passed = if forwarded || follows { case.requests() } else { 0 };
    let refused = statuses.len() == passed + 1 && case.statuses.contains(&statuses[passed]);
    let answered = statuses.iter().take(passed).all(|it| *it == 200) && statuses.len() >= passed;
    if !answered || seen.len() != passed || forwarded != (statuses.len() == passed) || !forwarded && !refused
    {
        return Err(said());
    }
    if !ended {
        return Err(format!("the connection stays; {}", said()));
    }
    let unmet = case.predicates.iter().find(|(word, text)| forwarded && !is_met(word, text, &seen[0]));
    unmet.map_or(Ok(()), |(word, text)| Err(format!("not {word} {text}; {}", said())))
}

/// The statuses of the final answers, up to the first that is no 200.
async fn statuses(case: &Case, client: &mut Client) -> Result<Vec<u16>, String> {
    let wanted = if case.outcome == "refuse" { case.requests() + 1 } else { case.requests().max(1) };
    let mut statuses = Vec::new();
    while statuses.len() < wanted {
        let answer = client.answer_to(false).await;
        let answer = answer.map_err(|error| format!("answers {statuses:?}, then {error}"))?;
        if answer.status >= 200 {
            statuses.push(answer.status);
        }
        if answer.status > 200 {
            break;
        }
    }
    Ok(statuses)
}

#[tokio::test]
async fn every_hostile_request_is_refused_or_forwarded_as_exactly_one() {
    let record = Arc::default();
    let web = strict(&record).await;
    let world = World::of(&[&web]).await;
    let cases = corpus();
    assert!(cases.len() > 600, "{} cases", cases.len());
    let mut wrong = String::new();
    let mut count = 0;
    for case in &cases {
        if let Err(why) = tried(case, &world, &record).await {
            count += 1;
            writeln!(wrong, "{} (RFC {}; {} {:?}): {why}", case.name, case.rfc, case.outcome, case.statuses)
                .unwrap();
        }
    }
    assert_eq!(count, 0, "of {} cases:\n{wrong}", cases.len());
}
