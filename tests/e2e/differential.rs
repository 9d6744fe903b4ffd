//! The same zone files at NSD and here, and the same queries to both: the answers are equal, except for differences that
//! have a name and a section of an RFC which leaves the choice.

mod chains;
mod zones;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use fastrand::Rng;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::Record,
};
use libtest_mimic::{Failed, Trial};
use zones::ZoneFile;

use crate::{
    components::Components,
    harness::{Reaped, ensure, eventually, free_port, full, waypost},
    wire::{PATIENCE, Query, any_case, ask, ask_over_tcp, connected},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![
        components.needs_nsd("differential::nsd_answers_the_same", |nsd| everything(&nsd)),
        components.needs_nsd("differential::nsd_follows_aliases_the_same", |nsd| aliases(&nsd)),
    ]
}

/// A difference that is allowed, because an RFC leaves the choice.
struct Choice {
    name: &'static str,
    section: &'static str,
    explains: fn(&Query, Field, &Reply, &Reply) -> bool,
}

/// Ours is the first reply, NSD's the second.
const CHOICES: &[Choice] = &[
    Choice {
        name: "ANY is answered with a word",
        section: "RFC 8482 §4.2",
        explains: |query, field, ours, _| {
            let word = |it: &String| it.contains(" HINFO rfc8482");
            query.record_type == ANY && field == Field::Answer && ours.answer.iter().any(word)
        },
    },
    Choice {
        name: "ANY at an alias is answered with the alias",
        section: "RFC 8482 §4.1",
        explains: |query, field, ours, theirs| {
            let ends = ours.rcode == ResponseCode::NoError && !ours.chain.is_empty();
            let fields = field != Field::Flags;
            query.record_type == ANY && fields && ends && ours.answer.is_subset(&theirs.answer)
        },
    },
    Choice {
        name: "no record of a chain comes twice",
        section: "RFC 2181 §5",
        explains: |_, field, ours, theirs| {
            let mut seen = BTreeSet::new();
            let once: Vec<_> = theirs.chain.iter().filter(|it| seen.insert(*it)).collect();
            field == Field::Answer && ours.answer == theirs.answer && once.into_iter().eq(&ours.chain)
        },
    },
    Choice {
        name: "a chain that grows through several redirections is followed as far as one likes",
        section: "RFC 6672 §5.3",
        explains: |_, field, ours, theirs| {
            let common =
                ours.chain.iter().zip(&theirs.chain).take_while(|(ours, theirs)| ours == theirs).count();
            let either = field == Field::Answer || field == Field::Rcode;
            either && common >= LONG_CHAIN && common == ours.chain.len().min(theirs.chain.len())
        },
    },
    Choice {
        name: "DS at a zone that the zone above does not delegate is denied by the zone itself",
        section: "RFC 4035 §3.1.4.1",
        explains: |query, field, ours, theirs| {
            let empty = ours.answer.is_empty() && theirs.answer.is_empty();
            query.record_type == DS && field == Field::Authority && empty
        },
    },
];

const DS: u16 = 43;
const ANY: u16 = 255;
/// Longer than any resolver follows (BIND 16, Unbound 11).
const LONG_CHAIN: usize = 20;

/// What two replies can differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    Flags,
    Rcode,
    Answer,
    Authority,
    Additional,
}

/// A reply in a form in which equal means the same: the order of records has no meaning, except in a chain of aliases.
#[derive(Debug)]
struct Reply {
    flags: [bool; 6],
    rcode: ResponseCode,
    chain: Vec<String>,
    answer: BTreeSet<String>,
    authority: BTreeSet<String>,
    additional: BTreeSet<String>,
}

impl Reply {
    fn read(query: &[u8], octets: &[u8]) -> Result<Self, Failed> {
        let message = Message::from_vec(octets).map_err(|error| format!("{octets:02x?}: {error}"))?;
        let question = 12..query.len().min(octets.len());
        let questions = octets.get(question.clone()).zip(query.get(question));
        let end = query.windows(1).skip(12).position(|it| it[0] == 0).map_or(0, |at| at + 5);
        let echoed = questions.is_some_and(|(ours, theirs)| ours.get(..end) == theirs.get(..end));
        ensure(echoed, || format!("the question came back changed: {query:02x?} {octets:02x?}"))?;
        let metadata = &message.metadata;
        let flags = [
            metadata.authoritative,
            metadata.truncation,
            metadata.recursion_desired,
            metadata.recursion_available,
            message.edns.is_some(),
            message.edns.as_ref().is_some_and(|it| it.flags().dnssec_ok),
        ];
        let aliases = message.answers.iter().map(line).filter(|it| it.contains(" CNAME "));
        let additional = message.additionals.iter().filter(|it| it.record_type().to_string() != "OPT");
        Ok(Self {
            flags,
            rcode: metadata.response_code,
            chain: aliases.collect(),
            answer: message.answers.iter().map(line).collect(),
            authority: message.authorities.iter().map(line).collect(),
            additional: additional.map(line).collect(),
        })
    }

    fn is_truncated(&self) -> bool {
        self.flags[1]
    }

    fn differs(&self, other: &Self) -> Vec<Field> {
        let all = [
            (Field::Flags, self.flags == other.flags),
            (Field::Rcode, self.rcode == other.rcode),
            (Field::Answer, self.answer == other.answer && self.chain == other.chain),
            (Field::Authority, self.authority == other.authority),
            (Field::Additional, self.additional == other.additional),
        ];
        all.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect()
    }
}

/// Names without their case, which a server must keep only in the question.
fn line(record: &Record) -> String {
    let (name, data) = (record.name.to_string().to_lowercase(), record.data.to_string().to_lowercase());
    format!("{name} {} {} {data}", record.ttl, record.record_type())
}

fn start_nsd(nsd: &Path, folder: &Path, zones: &[ZoneFile], listen: SocketAddr) -> Result<Reaped, Failed> {
    let mut config = format!(
        "server:\n  ip-address: {}@{}\n  username: \"\"\n  chroot: \"\"\n  server-count: 1\n  zonesdir: {folder:?}\n\
         \x20 zonelistfile: \"{f}/zone.list\"\n  pidfile: \"{f}/nsd.pid\"\n  xfrdfile: \"{f}/xfrd.state\"\n\
         \x20 xfrdir: {folder:?}\n  logfile: \"{f}/nsd.log\"\n  database: \"\"\n  minimal-responses: yes\n  \
         rrl-ratelimit: 0\n  rrl-whitelist-ratelimit: 0\nremote-control:\n  control-enable: no\n",
        listen.ip(),
        listen.port(),
        f = folder.display()
    );
    for zone in zones {
        write!(config, "zone:\n  name: \"{}\"\n  zonefile: \"zones/{}.zone\"\n", zone.apex, zone.apex)?;
    }
    let path = folder.join("nsd.conf");
    std::fs::write(&path, config)?;
    let mut command = Command::new(nsd);
    command.arg("-d").arg("-c").arg(&path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Reaped(command.spawn()?))
}

fn start_waypost(folder: &Path, listen: SocketAddr) -> Result<Reaped, Failed> {
    let config = folder.join("node.toml");
    let text = format!(
        "node = \"n\"\nsite = \"s\"\ndata_dir = {:?}\n[dns]\nlisten = [\"{listen}\"]\nzones_dir = {:?}\n\
         [dns.rate_limit]\nenabled = false\n",
        folder.join("data"),
        folder.join("zones")
    );
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(folder.join("waypost.log"))?;
    let mut command = waypost();
    command.arg("run").arg("--config").arg(&config).arg("--die-with-parent");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(Reaped(command.spawn()?))
}

/// Types a zone has, types it never has, ANY, and one that is not assigned.
const TYPES: &[u16] =
    &[1, 1, 1, 28, 28, 2, 2, 5, 5, 6, 12, 15, 16, 33, 35, 39, 43, 48, 64, 65, 255, 257, 65280];

/// The types that are queried at an alias: mostly addresses.
const ALIAS_TYPES: &[u16] = &[1, 1, 1, 28, 5, 39, 16, 255];

fn query(random: &mut Rng, set: &Set, id: u16) -> Query {
    let zone = random.choice(&set.zones).unwrap();
    let name = (set.question)(random, zone);
    let edns = (random.u8(..4) != 0)
        .then(|| (*random.choice(&[512, 1232, 1400, 4096]).unwrap(), random.bool(), Vec::new()));
    let record_type = *random.choice(set.types).unwrap();
    Query { id, recursion: random.bool(), name: any_case(random, &name), record_type, edns }
}

/// Counts by the name of a choice; the first thing that has none is the error.
#[derive(Default)]
struct Tally {
    queries: u32,
    /// Through three aliases and more.
    long: u32,
    kinds: BTreeMap<String, u32>,
    answered: u32,
    referred: u32,
    by_tcp: u32,
    chosen: BTreeMap<&'static str, u32>,
    unexplained: Vec<Difference>,
}

/// A difference that no choice explains.
struct Difference {
    name: String,
    what: String,
}

impl Tally {
    fn compare(&mut self, query: &Query, ours: &Reply, theirs: &Reply) {
        *self.kinds.entry(format!("{:?}", theirs.rcode)).or_default() += 1;
        self.long += u32::from(theirs.chain.len() > 2);
        self.answered += u32::from(!theirs.answer.is_empty());
        self.referred += u32::from(theirs.authority.iter().any(|it| it.contains(" NS ")));
        for field in ours.differs(theirs) {
            match CHOICES.iter().find(|it| (it.explains)(query, field, ours, theirs)) {
                Some(choice) => *self.chosen.entry(choice.name).or_default() += 1,
                None => {
                    let what = format!("{field:?} of {query:?}\n  ours  {ours:?}\n  NSD's {theirs:?}");
                    self.unexplained.push(Difference { name: query.name.to_lowercase(), what });
                }
            }
        }
    }
}

/// Zones, and the queries for them.
struct Set {
    seed: u64,
    zones: Vec<ZoneFile>,
    question: fn(&mut Rng, &ZoneFile) -> String,
    types: &'static [u16],
    /// How many queries; with `--full` ten times as many.
    count: u32,
}

fn everything(nsd: &Path) -> Result<(), Failed> {
    let seed = 3;
    let zones = zones::many(&mut Rng::with_seed(seed), 40);
    let tally = same(nsd, Set { seed, zones, question: zones::question, types: TYPES, count: 20_000 })?;
    // Queries that never match a record of the zones would prove nothing.
    let Tally { queries, answered, referred, by_tcp, .. } = tally;
    ensure(answered > queries / 5 && referred > queries / 50 && by_tcp > queries / 1000, || {
        "dull queries".to_owned()
    })
}

fn aliases(nsd: &Path) -> Result<(), Failed> {
    let seed = 14;
    let zones = chains::many(&mut Rng::with_seed(seed), 160);
    let set = Set { seed, zones, question: chains::question, types: ALIAS_TYPES, count: 20_000 };
    let Tally { queries, long, kinds, .. } = same(nsd, set)?;
    let too_long = kinds.get("YXDomain").copied().unwrap_or(0);
    ensure(long > queries / 40 && too_long > queries / 1000, || format!("dull queries: {long} {too_long}"))
}

fn same(nsd: &Path, set: Set) -> Result<Tally, Failed> {
    let folder = tempfile::tempdir()?;
    let Set { seed, zones, .. } = &set;
    std::fs::create_dir(folder.path().join("zones"))?;
    for zone in zones {
        std::fs::write(folder.path().join("zones").join(format!("{}.zone", zone.apex)), &zone.text)?;
    }
    let [our_address, their_address] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let _theirs = start_nsd(nsd, folder.path(), zones, their_address)?;
    let _ours = start_waypost(folder.path(), our_address)?;
    let [ours, theirs] = [connected(our_address)?, connected(their_address)?];
    for (who, socket) in [("Waypost", &ours), ("NSD", &theirs)] {
        socket.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
        let serves = |zone: &ZoneFile| {
            let query =
                Query { id: 1, recursion: false, name: zone.apex.clone(), record_type: 6, edns: None };
            ask(socket, &query.octets()).is_ok_and(|it| it[7] == 1)
        };
        eventually(&format!("every zone at {who}"), PATIENCE, || zones.iter().all(serves)).map_err(
            |error| {
                let log = |name| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
                format!("{}\n{}\n{}", error.message().unwrap_or_default(), log("waypost.log"), log("nsd.log"))
            },
        )?;
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    let count = if full() { set.count * 10 } else { set.count };
    let (mut random, mut tally) = (Rng::with_seed(*seed), Tally { queries: count, ..Tally::default() });
    for number in 0..count {
        let query = query(&mut random, &set, u16::try_from(number & 0xffff)?);
        let octets = query.octets();
        let read = |reply: Vec<u8>| Reply::read(&octets, &reply);
        let (mut our, mut their) = (read(ask(&ours, &octets)?)?, read(ask(&theirs, &octets)?)?);
        // Where one does not fit, what matters is what comes instead over TCP (RFC 2181 §9).
        if our.is_truncated() || their.is_truncated() {
            tally.by_tcp += 1;
            our = read(ask_over_tcp(our_address, &octets)?)?;
            their = read(ask_over_tcp(their_address, &octets)?)?;
        }
        tally.compare(&query, &our, &their);
    }
    let Tally { kinds, answered, referred, by_tcp, chosen, unexplained, .. } = &tally;
    println!(
        "{count} queries to {} zones: {answered} answered, {referred} referred, {by_tcp} over TCP; {kinds:?}; {chosen:?}",
        zones.len()
    );
    for choice in CHOICES {
        println!("  {}: {} ({})", choice.name, chosen.get(choice.name).copied().unwrap_or(0), choice.section);
    }
    if let Some(first) = unexplained.first() {
        let zone =
            zones.iter().filter(|zone| first.name.ends_with(&zone.apex)).max_by_key(|it| it.apex.len());
        let shown: Vec<_> = unexplained.iter().take(10).map(|it| it.what.as_str()).collect();
        let text = zone.map_or("", |zone| &zone.text);
        return Err(format!(
            "{} differences\n{}\nthe zone of the first:\n{text}",
            unexplained.len(),
            shown.join("\n")
        )
        .into());
    }
    Ok(tally)
}
