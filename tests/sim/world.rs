//! What a seed decides: a world, and its faults.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    net::{Gone, Id, draw},
    sites::draw::Between,
};

/// When the faults begin, in milliseconds of true time.
const FAULTS_FROM: u64 = 8_000;

/// A world.
#[derive(Clone, Debug)]
pub struct World {
    pub sites: u16,
    pub vantages: u16,
    pub engines: u16,
    pub controls: u16,
    pub readers: u16,
    /// How many canaries each vantage has.
    pub canaries: Vec<u16>,
    /// The engine of each control, then of each reader.
    pub engine_of: BTreeMap<Id, Id>,
    /// The documents, without the overrides.
    pub documents: String,
    pub domains: Vec<String>,
    pub faults: Vec<(u64, Event)>,
    /// When the last of them is over, in milliseconds of true time.
    pub over: u64,
    /// At which rate clocks run.
    pub clocks: BTreeMap<Id, f64>,
    /// By how much the walls' clocks differ at most, in milliseconds.
    pub wall_spread: u64,
    /// Each site has an engine, and the controls of the sites are connected. Without, each engine is alone, and
    /// the operator brings the documents to each.
    pub connected: bool,
}

/// An event in the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Dies(Id, Gone),
    Serves(Id),
    Cut(Id, Id, Gone),
    Slow(Id, Id, u64),
    Lossy(Id, Id, f64),
    Heal(Id, Id),
    Crash(Id, Gone),
    /// Also without what it kept.
    Restart {
        node: Id,
        disk: bool,
    },
    /// The engine comes back with what it held at the start of the faults.
    RollBack(Id),
    /// The operator puts the present configuration back, under a higher epoch.
    Restore(Id),
    Override(u16, String),
    NoOverride(u16),
    /// Something about connected sites.
    Between(Between),
    /// Everything that is over by now is over.
    AllHeal,
}

impl World {
    pub fn engine(n: u16) -> Id {
        Id(n)
    }

    pub fn control(n: u16) -> Id {
        Id(10 + n)
    }

    pub fn prober(n: u16) -> Id {
        Id(20 + n)
    }

    pub fn reader(n: u16) -> Id {
        Id(30 + n)
    }

    pub fn site(n: u16) -> Id {
        Id(40 + n)
    }

    pub const CANARIES: Id = Id(50);

    pub fn name(id: Id) -> String {
        let kind = ["engine", "control", "v", "reader", "s", "canaries"];
        format!("{}{}", kind.get(usize::from(id.0 / 10)).unwrap_or(&"?"), id.0 % 10)
    }

    /// The one address of a site: of every third site an IPv6 address, so that sites differ by family.
    pub fn address(site: u16) -> IpAddr {
        match site % 3 {
            1 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 10 + site]),
            _ => IpAddr::from([192, 0, 2, 10 + site as u8]),
        }
    }

    /// What a node's wall clock shows at the start of one of its lives, in milliseconds: 2026, within the spread.
    pub fn wall(&self, seed: u64, id: Id, life: u32, now: u64) -> u64 {
        let spread = draw(seed, &[3 << 32, id.0.into(), life.into()]).u64(0..self.wall_spread);
        1_790_000_000_000 + now + spread
    }

    /// The site of a node or of a target of connected sites; `None` for what is outside.
    pub fn site_of(&self, id: Id) -> Option<u16> {
        let number = id.0 % 10;
        match id.0 / 10 {
            0 | 4 => Some(number),
            1 | 3 => self.engine_of.get(&id).map(|it| it.0),
            2 => Some(number).filter(|it| *it < self.sites),
            _ => None,
        }
    }

    /// A cluster freezes verdicts when too many targets go down at once.
    pub fn has_guard(&self) -> bool {
        self.documents.contains("guard:")
    }

    /// The controls of one of the connected sites.
    pub fn controls_of(&self, site: u16) -> Vec<Id> {
        (0..self.controls).map(Self::control).filter(|it| self.site_of(*it) == Some(site)).collect()
    }

    /// Clients of two networks of each site, and one that is nowhere.
    pub fn clients(&self) -> Vec<IpAddr> {
        let nets: &[u8] = if self.connected { &[77] } else { &[0, 77] };
        let near =
            (0..self.sites).flat_map(|n| nets.iter().map(move |net| IpAddr::from([10, n as u8, *net, 1])));
        near.chain([IpAddr::from([203, 0, 113, 1])]).collect()
    }

    pub fn nodes(&self) -> Vec<Id> {
        let engines = (0..self.engines).map(Self::engine);
        let controls = (0..self.controls).map(Self::control);
        let probers = (0..self.vantages).map(Self::prober);
        engines.chain(controls).chain(probers).chain((0..self.readers).map(Self::reader)).collect()
    }

    /// Draws the world of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut random = draw(seed, &[7 << 32]);
        let engines = random.u16(1..=3);
        let controls = random.u16(engines..=3);
        let vantages = random.u16(1..=5);
        let mut world = Self {
            sites: random.u16(2..=4),
            vantages,
            engines,
            controls,
            readers: random.u16(1..=3),
            canaries: (0..vantages).map(|_| if random.f64() < 0.7 { random.u16(1..=3) } else { 0 }).collect(),
            engine_of: BTreeMap::new(),
            documents: String::new(),
            domains: Vec::new(),
            faults: Vec::new(),
            over: if random.f64() < 0.8 { 45_000 } else { 150_000 },
            clocks: BTreeMap::new(),
            wall_spread: 1_200_000,
            connected: false,
        };
        for n in 0..controls {
            world.engine_of.insert(Self::control(n), Self::engine(n % engines));
        }
        for n in 0..world.readers {
            world.engine_of.insert(Self::reader(n), Self::engine(random.u16(0..engines)));
        }
        world.draw_clocks(&mut random);
        world.write_documents(&mut random);
        world.faults = Faults { world: &world, random: &mut random, events: Vec::new() }.draw();
        world
    }

    pub fn draw_clocks(&mut self, random: &mut fastrand::Rng) {
        for node in self.nodes() {
            // A second in two hundred too many or too few.
            self.clocks.insert(node, 1.0 + (random.f64() - 0.5) / 100.0);
        }
    }

    pub fn write_documents(&mut self, random: &mut fastrand::Rng) {
        let sites: Vec<String> = (0..self.sites).map(|n| format!("s{n}")).collect();
        let mut text = String::new();
        let regions = random.bool();
        let region = |n: u16| if regions { format!("region: r{}\n", n % 2) } else { String::new() };
        for (n, site) in (0..).zip(&sites) {
            let control = self.control_in_document(n);
            text +=
                &format!("kind: Site\nname: {site}\nnetworks: [10.{n}.0.0/16]\n{}{control}---\n", region(n));
        }
        text += "kind: Zone\nname: example.com\nnameservers: [{ name: ns1, a: [192.0.2.53] }]\n---\n";
        text += "kind: Cluster\nname: main\nzone: example.com\ngateway_domain: gw.example.com\ngateways:\n";
        for (n, site) in (0..).zip(&sites) {
            let address = Self::address(n);
            let family = if address.is_ipv4() { "a" } else { "aaaa" };
            text += &format!("  {site}: {{ {family}: ['{address}'] }}\n");
        }
        text += &self.more_documents(random);
        text += "---\n";
        for n in 0..self.vantages {
            text += &format!("kind: Vantage\nname: v{n}\n{}---\n", region(n));
        }
        let checks = random.u16(1..=2);
        for n in 0..checks {
            let quorum = match random.u8(0..6) {
                0 => "any".to_owned(),
                1 => "all".to_owned(),
                2 => random.u16(1..=self.vantages).to_string(),
                _ => "majority".to_owned(),
            };
            let (interval, timeout) = (random.u64(1..=2), random.u64(4..=8));
            text += &format!(
                "kind: Check\nname: c{n}\ntype: tcp\nport: {}\ninterval: {interval}s\ntimeout: {timeout}00ms\nfall: {}\n\
                 rise: {}\nquorum: {quorum}\n---\n",
                80 + n,
                random.u8(2..=4),
                random.u8(1..=2)
            );
        }
        for n in 0..random.u16(1..=4) {
            let name = if n == 0 { "gw.example.com".to_owned() } else { format!("d{n}.example.com") };
            let policy = policy(&sites, random);
            let mut rules = String::new();
            if random.f64() < 0.3 {
                let network = random.u16(0..self.sites);
                let policy = self::policy(&sites, random);
                rules = format!("rules: [{{ networks: [10.{network}.0.0/16], policy: {policy} }}]\n");
            }
            let mode = if random.f64() < 0.1 { "manual" } else { "automatic" };
            let ramp = if random.f64() < 0.4 { random.u8(1..=8) } else { 0 };
            let gate = if random.f64() < 0.3 {
                format!(", gate: c{}", random.u16(0..checks))
            } else {
                String::new()
            };
            let verdict = if regions && random.bool() { "regional" } else { "global" };
            let when_none = match random.u8(0..4) {
                0 => "nodata",
                1 => "{ backup: { a: [198.51.100.1] } }",
                _ => "open",
            };
            text += &format!(
                "kind: Domain\nname: {name}\ncluster: main\npolicy: {policy}\n{rules}check: c{}\nttl: 20s\nmin_ttl: 2s\n\
                 verdict: {verdict}\nanswers: {}\nmin_up: {}\nwhen_none: {when_none}\n\
                 recovery: {{ mode: {mode}, hold_down: {}s, ramp: {ramp}s{gate} }}\n---\n",
                random.u16(0..checks),
                random.u16(1..=2),
                random.u16(1..=self.sites),
                random.u8(0..=if self.connected { 20 } else { 6 }),
            );
            self.domains.push(name);
        }
        self.documents = text;
    }
}

/// How sites are ranked.
fn policy(sites: &[String], random: &mut fastrand::Rng) -> String {
    let mut order = sites.to_vec();
    random.shuffle(&mut order);
    match random.u8(0..6) {
        0..=1 => "{ type: nearest }".to_owned(),
        2..=3 => format!("{{ type: failover, order: [{}] }}", order.join(", ")),
        4 => {
            let weights: Vec<String> =
                order.iter().map(|it| format!("{it}: {}", random.u8(1..=100))).collect();
            format!("{{ type: weighted, weights: {{ {} }} }}", weights.join(", "))
        }
        _ => {
            let (blue, green) = order.split_at(random.usize(1..order.len()));
            let active = if random.bool() { "blue" } else { "green" };
            let (blue, green) = (blue.join(", "), green.join(", "));
            format!("{{ type: blue_green, active: {active}, blue: [{blue}], green: [{green}] }}")
        }
    }
}

/// Draws the faults.
pub struct Faults<'a> {
    pub world: &'a World,
    pub random: &'a mut fastrand::Rng,
    pub events: Vec<(u64, Event)>,
}

impl Faults<'_> {
    fn draw(mut self) -> Vec<(u64, Event)> {
        let over = self.world.over;
        for _ in 0..self.random.u64(over / 9_000..=over / 3_500) {
            let from = self.random.u64(FAULTS_FROM..over - 1_000);
            let until = (from + self.random.u64(500..15_000)).min(over);
            self.fault(from, until);
        }
        self.end()
    }

    /// All but some sites, which stay as they are: at least one serves at the end.
    pub fn end(mut self) -> Vec<(u64, Event)> {
        let over = self.world.over;
        let alive = self.random.u16(0..self.world.sites);
        for n in 0..self.world.sites {
            let stays = n != alive && self.random.f64() < 0.25;
            let event =
                if stays { Event::Dies(World::site(n), self.how()) } else { Event::Serves(World::site(n)) };
            self.events.push((over, event));
        }
        self.events.sort_by_key(|(at, _)| *at);
        self.events.push((over, Event::AllHeal));
        self.events
    }

    pub fn how(&mut self) -> Gone {
        if self.random.bool() { Gone::Silent } else { Gone::Refused }
    }

    pub fn one_of(&mut self, ids: &[Id]) -> Id {
        ids[self.random.usize(0..ids.len())]
    }

    pub fn site(&mut self) -> Id {
        World::site(self.random.u16(0..self.world.sites))
    }

    pub fn prober(&mut self) -> Id {
        World::prober(self.random.u16(0..self.world.vantages))
    }

    /// Two that talk to one another.
    fn link(&mut self) -> (Id, Id) {
        let followers: Vec<(Id, Id)> = self.world.engine_of.iter().map(|(a, b)| (*a, *b)).collect();
        match self.random.u8(0..3) {
            0 => (self.prober(), World::control(self.random.u16(0..self.world.controls))),
            1 => (self.prober(), self.site()),
            _ => followers[self.random.usize(0..followers.len())],
        }
    }

    fn fault(&mut self, from: u64, until: u64) {
        match self.random.u8(0..20) {
            0..=5 => {
                let (site, how) = (self.site(), self.how());
                self.between(from, Event::Dies(site, how), until, Event::Serves(site));
            }
            6..=7 => {
                let ((a, b), how) = (self.link(), self.how());
                self.between(from, Event::Cut(a, b, how), until, Event::Heal(a, b));
            }
            8..=9 => {
                let ((a, b), millis) = (self.link(), self.random.u64(50..1_200));
                self.between(from, Event::Slow(a, b, millis), until, Event::Heal(a, b));
            }
            10 => {
                let ((a, b), share) = (self.link(), self.random.f64() * 0.5);
                self.between(from, Event::Lossy(a, b, share), until, Event::Heal(a, b));
            }
            11..=12 => self.uplink(from, until),
            13..=15 => {
                let (node, how) = (self.one_of(&self.world.nodes()), self.how());
                let disk = self.random.f64() < 0.7;
                self.between(from, Event::Crash(node, how), until, Event::Restart { node, disk });
                if node.0 < 10 && !disk {
                    self.events.push((until + 500, Event::Restore(node)));
                }
            }
            16 => {
                let node = World::engine(self.random.u16(0..self.world.engines));
                self.between(from, Event::RollBack(node), until, Event::Restore(node));
            }
            17 => self.blackout(from, until),
            _ => self.order(from, until),
        }
    }

    pub fn between(&mut self, from: u64, begin: Event, until: u64, end: Event) {
        self.events.push((from, begin));
        self.events.push((until, end));
    }

    /// A vantage reaches nothing of what it dials; at times control neither.
    pub fn uplink(&mut self, from: u64, until: u64) {
        let (prober, how) = (self.prober(), self.how());
        let mut others: Vec<Id> = (0..self.world.sites).map(World::site).collect();
        others.push(World::CANARIES);
        if self.random.f64() < 0.4 {
            others.extend((0..self.world.controls).map(World::control));
        }
        for other in others {
            self.between(from, Event::Cut(prober, other, how), until, Event::Heal(prober, other));
        }
    }

    /// Every control, every engine or every prober dies at once, or everything.
    fn blackout(&mut self, from: u64, until: u64) {
        let kind = self.random.u16(0..4);
        let dies = |it: &Id| it.0 / 10 == kind || (kind == 3 && it.0 < 30);
        let mut nodes: Vec<Id> = self.world.nodes().into_iter().filter(dies).collect();
        let how = self.how();
        if kind == 3 {
            // Every reader, and every node that it could read from; the readers come back long before.
            nodes.retain(|it| it.0 < 30);
            for n in 0..self.world.readers {
                let back = Event::Restart { node: World::reader(n), disk: true };
                self.between(
                    from + 200,
                    Event::Crash(World::reader(n), how),
                    from + (until - from) / 3,
                    back,
                );
            }
        }
        for node in nodes {
            self.between(from, Event::Crash(node, how), until, Event::Restart { node, disk: true });
        }
    }

    fn order(&mut self, from: u64, until: u64) {
        let number = self.random.u16(0..1_000);
        let site = self.random.u16(0..self.world.sites);
        let state = ["up", "down", "drain"][self.random.usize(0..3)];
        let domain = match self.random.u8(0..3) {
            0 => String::new(),
            1 => ", domain: '*.example.com'".to_owned(),
            _ => format!(", domain: {}", self.world.domains[self.random.usize(0..self.world.domains.len())]),
        };
        let text = format!(
            "kind: Override\nname: o{number}\ntarget: {{ site: s{site}{domain} }}\nstate: {state}\nowner: sim\nreason: sim\nforce: true\n"
        );
        self.events.push((from, Event::Override(number, text)));
        if self.random.bool() {
            self.events.push((until, Event::NoOverride(number)));
        }
    }
}
